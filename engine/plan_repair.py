"""What a program puts right in a scene that breaks the paper's rules (engine/plan_rules.py finds them)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import combinations

from engine.plan import KEYFRAMES, NONE, Box, Region, Scene
from engine.plan_rules import MAX_GROWTH, MAX_SHARED, MAX_STEP, MIN_KEYFRAMES, MIN_SIDE, check_scene, names, shared_part

CAPTION_LETTERS = 400  # a plan's longest caption


def repair_scene(scene: Scene, phrases: Mapping[str, str], merge: bool) -> tuple[Scene, list[str]]:
    """The scene with its faults put right, and what was done. `phrases`: what captions call the given characters.
    `merge`: characters that overlap get one caption that tells of both; otherwise they are put side by side, as they
    are when the merged caption would be too long. Idempotent. What remains is what check_scene still finds."""
    broken = {finding.rule for finding in check_scene(scene, phrases)}
    regions, done = list(scene.regions), []
    if "motion length" in broken:
        regions = _lengthened(regions)
        done.append(f"motions last {MIN_KEYFRAMES} keyframes")
    if "box size" in broken:
        regions = [_with(r, boxes={k: widened(box) for k, box in r.boxes.items()}) for r in regions]
        done.append(f"boxes made {MIN_SIDE} wide and high")
    if "caption" in broken:
        regions = [_with(r, caption=_told(r, scene, phrases)) for r in regions]
        done.append("captions name entity, motion and background")
    if "gradual boxes" in broken:
        regions = [_with(r, boxes=gradual(r.boxes)) for r in regions]
        done.append("boxes move in small steps")
    if _overlaps(regions):
        merged = _merged(regions) if merge else None
        regions = merged or side_by_side(regions)
        done.append("captions of those who overlap merged" if merged else "given places side by side")
    return scene.model_copy(update={"regions": tuple(regions)}), done


def _with(region: Region, **changes: object) -> Region:
    return Region(**{**{name: getattr(region, name) for name in Region.model_fields}, **changes})


def widened(box: Box, side: float = MIN_SIDE) -> Box:
    """The box with sides of at least `side`, about its middle, within the picture."""

    def span(low: float, high: float) -> tuple[float, float]:
        if high - low >= side - 1e-9:
            return low, high
        start = round(min(max((low + high - side) / 2, 0.0), 1 - side), 2)
        return start, round(start + side, 2)

    (left, right), (top, bottom) = span(box.left, box.right), span(box.top, box.bottom)
    return Box(left, top, right, bottom)


def gradual(boxes: Mapping[int, Box]) -> dict[int, Box]:
    """The boxes with steps and growth within the rules: each goes towards where it should be as far as it may."""
    out: dict[int, Box] = {}
    for keyframe, box in boxes.items():
        before = out.get(keyframe - 1)
        out[keyframe] = _towards(before, box) if before else box
    return out


def _towards(before: Box, box: Box) -> Box:
    def span(low: float, high: float, to_low: float, to_high: float) -> tuple[float, float]:
        size, step, growth = high - low, MAX_STEP - 0.01, MAX_GROWTH - 0.1  # the edges are rounded
        new = round(min(max(to_high - to_low, size / growth, MIN_SIDE), max(size * growth, MIN_SIDE), 1.0), 2)
        middle, aim = (low + high) / 2, (to_low + to_high) / 2
        middle += min(max(aim - middle, -step), step)
        start = round(min(max(middle - new / 2, 0.0), 1 - new), 2)
        return start, round(start + new, 2)

    (left, right) = span(before.left, before.right, box.left, box.right)
    (top, bottom) = span(before.top, before.bottom, box.top, box.bottom)
    return Box(left, top, right, bottom)


def _lengthened(regions: list[Region]) -> list[Region]:
    """Motions of one keyframe get a neighbouring one as well: a free one, or one of a longer motion of the entity."""
    out = list(regions)
    for n, region in enumerate(out):
        alike = {k for r in out if (r.entity, r.motion) == (region.entity, region.motion) for k in r.boxes}
        if region.motion == NONE or len(alike) >= MIN_KEYFRAMES:
            continue
        (only,) = region.boxes
        others = [m for m, other in enumerate(out) if m != n and other.entity == region.entity]
        for near in (only + 1, only - 1):
            taken = [m for m in others if near in out[m].boxes]
            if not 1 <= near <= KEYFRAMES or any(len(out[m].boxes) <= MIN_KEYFRAMES for m in taken):
                continue
            for m in taken:
                out[m] = _with(out[m], boxes={k: box for k, box in out[m].boxes.items() if k != near})
            boxes = dict(sorted({**region.boxes, near: region.boxes[only]}.items()))
            out[n] = _with(region, boxes=boxes)
            break
    return out


def _told(region: Region, scene: Scene, phrases: Mapping[str, str]) -> str:
    """The caption, made anew of entity, motion and background where it lacks one of them."""
    lone = scene.model_copy(update={"regions": (region,)})
    if not any(finding.rule == "caption" for finding in check_scene(lone, phrases)):
        return region.caption
    noun = "" if region.entity == NONE else phrases.get(region.entity, region.entity)
    if noun and not re.match(r"(a|an|the)\b", noun, re.IGNORECASE) and noun == noun.lower():
        noun = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    said = " ".join(part for part in (noun, "" if region.motion == NONE else region.motion) if part)
    return f"{said}, {scene.background}"[:CAPTION_LETTERS].strip(", ") if said else scene.background


def _overlaps(regions: list[Region]) -> set[tuple[int, int]]:
    """Pairs of regions of two characters that share more of a keyframe than the rules allow, untold."""
    found = set()
    for (n, one), (m, other) in combinations(enumerate(regions), 2):
        if one.entity == other.entity or NONE in (one.entity, other.entity):
            continue
        if any(names(r.caption, one.entity) and names(r.caption, other.entity) for r in (one, other)):
            continue
        both = one.boxes.keys() & other.boxes.keys()
        if any(shared_part(one.boxes[k], other.boxes[k]) > MAX_SHARED for k in both):
            found.add((n, m))
    return found


def _merged(regions: list[Region]) -> list[Region] | None:
    """Regions that overlap share one caption: those of all of them, joined. None when it would be too long."""
    together = {n: {n} for n in range(len(regions))}
    for n, m in _overlaps(regions):
        group = together[n] | together[m]
        for k in group:
            together[k] = group
    out = []
    for n, region in enumerate(regions):
        captions = list(dict.fromkeys(regions[m].caption.rstrip(". ") for m in sorted(together[n])))
        caption = region.caption if len(captions) == 1 else " and ".join(captions)
        if len(caption) > CAPTION_LETTERS:
            return None
        out.append(_with(region, caption=caption))
    return out


def side_by_side(regions: Collection[Region]) -> list[Region]:
    """Each entity in a lane of its own, from left to right as they stood; its boxes keep their heights, and their ways
    are scaled to the lane."""

    def middle(entity: str) -> float:
        return min(
            sum(box.left + box.right for box in r.boxes.values()) / len(r.boxes) for r in regions if r.entity == entity
        )

    lanes = sorted(dict.fromkeys(region.entity for region in regions), key=middle)
    width, out = 1 / len(lanes), []
    for region in regions:
        start = lanes.index(region.entity) * width
        boxes = {
            k: Box(round(start + b.left * width, 2), b.top, round(min(start + b.right * width, 1), 2), b.bottom)
            for k, b in region.boxes.items()
        }
        wide = {k: b if b.right - b.left >= MIN_SIDE else _in_lane(b, start, width) for k, b in boxes.items()}
        out.append(_with(region, boxes=wide))
    return out


def beside(scene: Scene, entity: str, motion: str, caption: str) -> Scene:
    """The scene with one more entity, on the right of the others, who make room."""
    boxes = {k: Box(0.6, 0.3, 1.0, 0.98) for k in range(1, KEYFRAMES + 1)}
    regions = [*scene.regions, Region(entity=entity, motion=motion, caption=caption, boxes=boxes)]
    return scene.model_copy(update={"regions": tuple(side_by_side(regions))})


def _in_lane(box: Box, start: float, width: float) -> Box:
    """The box at least MIN_SIDE wide, within the lane that begins at `start`."""
    left = round(max(start, min((box.left + box.right - MIN_SIDE) / 2, start + width - MIN_SIDE)), 2)
    return Box(left, box.top, round(min(left + MIN_SIDE, 1), 2), box.bottom)


def consistent_names(scenes: Collection[Scene]) -> tuple[list[Scene], dict[str, str]]:
    """The scenes with one name for each character, the one that came first, and what was renamed. "Little Fox" and "the
    fox" are one, since they end alike and one says no more than the other, unless both are in one scene."""
    together = [{r.entity for r in scene.regions} for scene in scenes]
    known: list[str] = []
    renamed: dict[str, str] = {}
    for entity in dict.fromkeys(r.entity for scene in scenes for r in scene.regions if r.entity != NONE):
        same = next((k for k in known if _alike(k, entity) and not any({k, entity} <= cast for cast in together)), None)
        if same is None:
            known.append(entity)
        else:
            renamed[entity] = same

    def named(region: Region) -> Region:
        name = renamed.get(region.entity)
        if name is None:
            return region
        said = re.sub(rf"(?<!\w){re.escape(region.entity)}(?!\w)", name, region.caption, count=1, flags=re.IGNORECASE)
        return _with(region, entity=name, caption=said)

    return [scene.model_copy(update={"regions": tuple(map(named, scene.regions))}) for scene in scenes], renamed


def _alike(one: str, other: str) -> bool:
    a, b = one.lower().split(), other.lower().split()
    return a[-1:] == b[-1:] and (set(a) <= set(b) or set(b) <= set(a))
