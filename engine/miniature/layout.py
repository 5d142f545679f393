"""Where the actors of a small story stand and which way they go: boxes for the miniature's planner to learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Act:
    """Somebody does one motion. `frames`: first and last keyframe. `side`: -1 or 1 for who is told to be on the left or
    on the right. `told`: in which of the scene's telling sentences."""

    name: str
    motion: str
    frames: tuple[int, int] = (1, 6)
    side: int = 0
    told: int = 0


# Where actors stand. All in percent of the picture; a standing actor of 26-34 of 64 pixels fills 36..96 of its height.

MAX_STEP = 12  # from one keyframe to the next
_STANDING = (36, 96)
_WHOLE_PATH = {  # motion -> width at most, top, bottom of one box that holds the whole of it
    "jumps up and down": (38, 4, 98), "dances": (38, 34, 96), "runs in circles": (60, 6, 98),
    "spins around": (40, 30, 98), "grows bigger": (40, 30, 98), "shrinks": (40, 30, 98),
}  # fmt: skip
_ACROSS = {  # motion -> top, bottom of a box that goes along: in one as wide as the picture there is room for several
    "walks left": _STANDING, "walks right": _STANDING, "zigzags across": (4, 98), "bounces across": (10, 98),
    "swoops down": (2, 98),
}  # fmt: skip


def layout(acts: list[Act]) -> list[dict[str, Any]]:
    """The regions of a level-2 answer: lanes from left to right in the order of first mention, but for those who are
    told to be elsewhere."""
    sides = {act.name: act.side for act in reversed(acts)}
    names = sorted(dict.fromkeys(act.name for act in acts), key=lambda name: sides[name])
    lanes = {1: [(0, 100)], 2: [(0, 48), (52, 100)], 3: [(0, 33), (34, 66), (67, 100)]}[max(len(names), 1)]
    left_now: dict[str, int] = {}
    regions = []
    for act in acts:
        a, b = lanes[names.index(act.name)]
        start, end = _boxes(act.motion, a, b, left_now.get(act.name), MAX_STEP * (act.frames[1] - act.frames[0]))
        left_now[act.name] = end[0]
        region: dict[str, Any] = {"entity": act.name, "motion": act.motion}
        if act.frames != (1, 6):
            region["frames"] = list(act.frames)
        region["from"] = start
        if end != start:
            region["to"] = end
        regions.append(region)
    return regions


def _boxes(motion: str, a: int, b: int, left: int | None, farthest: int) -> tuple[list[int], list[int]]:
    """First and last box of a motion in the lane a..b. `left`: the left edge where the actor ended just before;
    `farthest`: how far it may go."""
    if motion in _WHOLE_PATH:
        width, top, bottom = _WHOLE_PATH[motion]
        width = min(width, b - a)
        box = [_near(left, a, b, width), top, 0, bottom]
        box[2] = box[0] + width
        return box, box
    width = min(36, b - a - (6 if b - a < 40 else 14))  # room to walk
    at = _near(left, a, b, width)
    top, bottom = _ACROSS.get(motion, _STANDING)
    start, end = [at, top, at + width, bottom], [at, top, at + width, bottom]
    if motion in _ACROSS:
        right = motion == "walks right" if motion.startswith("walks") else 2 * at <= a + b - width  # where room is
        a, b = (4, 92) if b - a == 100 else (a, b)  # all of the picture is too far for six keyframes
        near, far = (a, b - width) if right else (b - width, a)
        if left is not None:
            near = at
        far = min(far, near + farthest) if right else max(far, near - farthest)
        start[0], end[0] = near, far
        start[2], end[2] = near + width, far + width
    elif motion == "flies up":
        end[1], end[3] = 0, 60
    elif motion == "falls down":
        start[1], start[3] = 0, 60
    return start, end


def _near(left: int | None, a: int, b: int, width: int) -> int:
    """Left edge of a box in the lane: where the actor was, else in the middle."""
    return (a + b - width) // 2 if left is None else min(max(left, a), b - width)
