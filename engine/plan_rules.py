"""The paper's rules for a plan that a program can check (method, section 1), and what differs between two plans.

A plan that breaks a rule can still be rendered; it will look worse for it. What cannot be rendered is refused when the
plan is read (engine/plan.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from typing import NamedTuple

from engine.motion_names import normal_motion
from engine.plan import NONE, Box, Plan, Region, Scene

MIN_SIDE = 0.2  # of a box, as a share of the picture
MIN_KEYFRAMES = 2  # that a motion lasts
MAX_MOTIONS = 4  # in a scene of several characters
MAX_STEP = 0.35  # of the picture, that a box's middle moves from one keyframe to the next
MAX_GROWTH = 1.5  # of a side, from one keyframe to the next
MAX_SHARED = 0.25  # of the smaller box, that another character's covers when captions do not tell of both
SMALL_WORDS = {
    "the", "and", "with", "its", "his", "her", "their", "background", "event", "scene", "for", "from", "into", "very",
    "all",
}  # fmt: skip


class Finding(NamedTuple):
    """A rule that a scene breaks, and how; `where` names the region and the keyframes."""

    scene: str
    rule: str
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.scene}: {self.where + ': ' if self.where else ''}{self.why} [{self.rule}]"


def check_rules(plan: Plan) -> list[Finding]:
    """Every rule that the plan breaks, scene by scene."""
    phrases = {name: character.phrase for name, character in plan.characters.items()}
    return [finding for scene in plan.scenes for finding in check_scene(scene, phrases)]


def check_scene(scene: Scene, phrases: Mapping[str, str]) -> Iterator[Finding]:
    """Every rule that a scene breaks. `phrases`: what captions call the given characters, by entity."""

    def finding(rule: str, where: str, why: str) -> Finding:
        return Finding(scene.id, rule, where, why)

    entities = {r.entity for r in scene.regions if r.entity != NONE}
    motions = {(r.entity, r.motion) for r in scene.regions if r.motion != NONE}
    if len(entities) > 1 and len(motions) > MAX_MOTIONS:
        yield finding("motions", "", f"{len(motions)} motions of {len(entities)} characters; at most {MAX_MOTIONS}")
    if named := [entity for entity in sorted(entities) if names(scene.background, entity)]:
        yield finding("background", "background", f"names {', '.join(named)}; the background is free of characters")
    for n, region in enumerate(scene.regions):
        at = f"regions.{n} ({region.entity})"
        for keyframe, box in region.boxes.items():
            width, height = box.right - box.left, box.bottom - box.top
            if min(width, height) < MIN_SIDE - 1e-6:
                why = f"the box is {width:.2f} x {height:.2f}; sides should be {MIN_SIDE} or more"
                yield finding("box size", f"{at}, keyframe {keyframe}", why)
                break
        lasts = {k for r in scene.regions if (r.entity, r.motion) == (region.entity, region.motion) for k in r.boxes}
        if region.motion != NONE and len(lasts) < MIN_KEYFRAMES:
            why = f"{region.motion!r} lasts {len(lasts)} keyframe; give it {MIN_KEYFRAMES} or more"
            yield finding("motion length", at, why)
        yield from (finding("caption", at, why) for why in _caption(region, scene, phrases))
        yield from (finding("gradual boxes", f"{at}, keyframes {a}-{b}", why) for a, b, why in _jumps(region))
    for one, other in combinations(scene.regions, 2):
        if one.entity == other.entity or NONE in (one.entity, other.entity):
            continue
        told = any(names(r.caption, one.entity) and names(r.caption, other.entity) for r in (one, other))
        for keyframe in sorted(one.boxes.keys() & other.boxes.keys()):
            shared = shared_part(one.boxes[keyframe], other.boxes[keyframe])
            if shared > MAX_SHARED and not told:
                why = f"{shared:.0%} of the smaller box is in the other; part them, or tell of both in the captions"
                yield finding("overlap", f"{one.entity} and {other.entity}, keyframe {keyframe}", why)
                break


def _caption(region: Region, scene: Scene, phrases: Mapping[str, str]) -> Iterator[str]:
    """A given character is named by its phrase, word by word; of anybody else the noun is enough ("a dog" for "big
    black dog"), and of a motion its verb in any form."""
    name = phrases.get(region.entity) or region.entity.split()[-1]
    if region.entity != NONE and not names(region.caption, name):
        yield f"the caption does not name {name!r}"
    verb = normal_motion(region.motion).split()[0]
    if region.motion != NONE and verb not in {normal_motion(word).split()[0] for word in _words(region.caption)}:
        yield f"the caption does not say {region.motion!r}"
    places = {word for word in _words(scene.background) if len(word) > 2} - SMALL_WORDS
    if places and not places & _words(region.caption):
        yield f"the caption says nothing of the background ({scene.background})"


def _jumps(region: Region) -> Iterator[tuple[int, int, str]]:
    for (a, one), (b, other) in pairwise(region.boxes.items()):
        if b != a + 1:
            continue
        x, y = (
            (other.left + other.right - one.left - one.right) / 2,
            (other.top + other.bottom - one.top - one.bottom) / 2,
        )
        if max(abs(x), abs(y)) > MAX_STEP:
            yield a, b, f"the box moves by ({x:+.2f}, {y:+.2f}); at most {MAX_STEP} at once"
        sides = [(box.right - box.left, box.bottom - box.top) for box in (one, other)]
        growth = max(max(p / q, q / p) for p, q in zip(*sides, strict=True))
        if growth > MAX_GROWTH:
            yield a, b, f"a side changes {growth:.1f}-fold; at most {MAX_GROWTH} at once"


def shared_part(a: Box, b: Box) -> float:
    """The common area as a share of the smaller box."""
    width = max(min(a.right, b.right) - max(a.left, b.left), 0)
    height = max(min(a.bottom, b.bottom) - max(a.top, b.top), 0)
    return width * height / min((box.right - box.left) * (box.bottom - box.top) for box in (a, b))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[\w']+", text.lower()))


def names(text: str, name: str) -> bool:
    """Whether the text says the name, in whole words."""
    return re.search(rf"(?<!\w){re.escape(name.lower())}(?!\w)", text.lower()) is not None


def diff_plans(old: Plan, new: Plan) -> list[str]:
    """What changed from one plan to another, a line each: what would be rendered again, and what would not."""
    before, after = ({scene.id: scene for scene in plan.scenes} for plan in (old, new))
    lines = [f"- scene {name}" for name in before if name not in after]
    lines += [f"+ scene {name}" for name in after if name not in before]
    for name in (name for name in after if name in before):
        lines += [f"~ scene {name}: {change}" for change in _changes(before[name], after[name])]
    for name in sorted(old.characters.keys() | new.characters.keys()):
        if old.characters.get(name) != new.characters.get(name):
            lines.append(f"~ character {name}")
    kept = [name for name in after if name in before]
    if [name for name in before if name in after] != kept:
        lines.append(f"~ order of scenes: {', '.join(after)}")
    return lines


def _changes(old: Scene, new: Scene) -> Iterator[str]:
    if old.background != new.background:
        yield f"background: {old.background!r} -> {new.background!r}"
    if old.narration != new.narration:
        yield "narration (nothing is rendered again)"
    before, after = ({(r.entity, r.motion): r for r in scene.regions} for scene in (old, new))
    yield from (f"no longer {entity}, {motion}" for entity, motion in before if (entity, motion) not in after)
    for (entity, motion), region in after.items():
        known = before.get((entity, motion))
        if known is None:
            yield f"now {entity}, {motion}"
            continue
        if known.caption != region.caption:
            yield f"{entity}: caption: {known.caption!r} -> {region.caption!r}"
        if known.boxes != region.boxes:
            moved = sorted(
                k for k in known.boxes.keys() | region.boxes.keys() if known.boxes.get(k) != region.boxes.get(k)
            )
            yield f"{entity}: boxes of keyframes {', '.join(map(str, moved))}"
