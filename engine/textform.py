"""The plan's text form that the method's authors use, in and out (method: a Background line, then Frame_1 .. Frame_6).

Background: the background of the event: a forest
Frame_1: [["fox", "walking", "A fox is walking"], [0.0, 0.3, 0.4, 1.0]], ...
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field

from engine.errors import InputError
from engine.plan import KEYFRAMES, NONE, Box, Region, Scene, check_box

_FRAME = re.compile(r"^Frame_(\d+)\s*:\s*(.*)$")


@dataclass
class Reading:
    """A scene read from text, and what had to be mended to read it."""

    scene: Scene
    notes: list[str] = field(default_factory=list)


def parse_text(text: str, scene_id: str) -> Reading:
    """Reads one scene. Quotes around the whole text, escaped newlines, either kind of quote and empty frames are all
    in the authors' files. Boxes that leave the picture are cut at its edge; what lies wholly outside is dropped; both
    are noted. Raises InputError that names the line."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if "\n" not in text:
        text = text.replace("\\n", "\n")
    background, notes = "", []
    found: dict[tuple[str, str, str, int], dict[int, Box]] = {}
    seen_frames: set[int] = set()
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines())), 1):
        if line.lower().startswith("background:"):
            background = line.split(":", 1)[1].strip()
            continue
        match = _FRAME.match(line)
        if not match:
            continue  # the model's reasoning may stand before the plan
        keyframe = int(match[1])
        if not 1 <= keyframe <= KEYFRAMES or keyframe in seen_frames:
            raise InputError(
                f"{scene_id}: line {number}: Frame_{keyframe} is not one of Frame_1..Frame_{KEYFRAMES}, once each"
            )
        seen_frames.add(keyframe)
        times: dict[tuple[str, str, str], int] = {}
        for words, box in _regions(match[2], scene_id, number):
            times[words] = times.get(words, 0) + 1  # the same words twice in a frame are two regions
            mended = Box(*(min(max(edge, 0.0), 1.0) for edge in box))
            if check_box(mended):
                notes.append(f"Frame_{keyframe}: {words[2]!r} is outside the picture and was left out")
                continue
            if mended != box:
                notes.append(f"Frame_{keyframe}: the box of {words[2]!r} was cut at the picture's edge")
            found.setdefault((*words, times[words]), {})[keyframe] = mended
    if not background:
        raise InputError(f"{scene_id}: there is no `Background:` line")
    if len(seen_frames) != KEYFRAMES:
        raise InputError(
            f"{scene_id}: {len(seen_frames)} frames, but a scene has {KEYFRAMES}: Frame_1..Frame_{KEYFRAMES}"
        )
    regions = [Region(entity=e, motion=m, caption=c, boxes=boxes) for (e, m, c, _), boxes in found.items()]
    return Reading(Scene(id=scene_id, background=background, regions=tuple(regions)), notes)


def _regions(text: str, scene_id: str, number: int) -> list[tuple[tuple[str, str, str], Box]]:
    try:
        items = [item for item in ast.literal_eval(f"[{text}]") if item]
        out = []
        for (entity, motion, caption), (left, top, right, bottom) in items:
            words = (_word(entity), _word(motion), _word(caption))
            out.append((words, Box(float(left), float(top), float(right), float(bottom))))
        return out
    except (SyntaxError, ValueError, TypeError):
        raise InputError(
            f"{scene_id}: line {number}: expected [[entity, motion, caption], [left, top, right, bottom]], ... "
            f"but found {text[:80]!r}"
        ) from None


def _word(value: object) -> str:
    return str(value).strip() or NONE


def format_text(scene: Scene) -> str:
    """The scene in the authors' form. `parse_text` of it gives an equal scene (narration is not part of the form)."""
    lines = [f"Background: {scene.background}"]
    for number, regions in enumerate(scene.keyframes(), 1):
        items = [json.dumps([[r.entity, r.motion, r.caption], list(box)], ensure_ascii=False) for r, box in regions]
        lines.append(f"Frame_{number}: {', '.join(items)}")
    return "\n".join(lines)
