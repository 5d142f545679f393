"""Level 2 of the planner: the scene that an answer means; entities, motions, captions and boxes, all checked."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.models import Bundle, Words
from engine.motion_names import normal_motion
from engine.plan import KEYFRAMES, NONE, Box, Region, Scene
from engine.plan_repair import beside, repair_scene
from engine.plan_rules import MIN_KEYFRAMES, check_scene, names
from engine.planner_outline import (
    MAX_REGIONS,
    NEGATION,
    STILL,
    Refused,
    Repairable,
    StoryScene,
    entities_of,
    motions_of,
    named_of,
    present_of,
    said_motions,
    stage_phrases,
)  # fmt: skip
from engine.planner_prompts import SEVERAL, affirmed

# "he" and "it" who do something, as in "and it danced"; not "told it"
SUBJECT = re.compile(
    r"\b(he|she|they)\b|(^|[,;.:!?—] |\b(and|but|so|then|when|until|while|as|before|after) )it\b", re.IGNORECASE
)
Percent = Annotated[int, Field(ge=0, le=100)]
PercentBox = tuple[Percent, Percent, Percent, Percent]
Keyframe = Annotated[int, Field(ge=1, le=KEYFRAMES)]


class PlacedRegion(BaseModel):
    """One region of a level-2 answer. Without `to` it stays in its first box, without `frames` it lasts the scene."""

    model_config = ConfigDict(extra="forbid")

    entity: Annotated[str, Field(min_length=1, max_length=100)]
    motion: Annotated[str, Field(min_length=1, max_length=100)]
    caption: Annotated[str, Field(min_length=1, max_length=400)] | None = None
    frames: tuple[Keyframe, Keyframe] = (1, KEYFRAMES)
    first_box: Annotated[PercentBox, Field(alias="from")]
    last_box: Annotated[PercentBox | None, Field(alias="to")] = None


class SceneAnswer(BaseModel):
    """Level 2. `reason` and `background` are asked of models that read any text."""

    model_config = ConfigDict(extra="forbid")

    reason: str = ""
    background: Annotated[str, Field(min_length=1, max_length=400)] | None = None
    regions: Annotated[list[PlacedRegion], Field(max_length=MAX_REGIONS)]


def check_motions(scene: Scene, place: str, words: Words | None, characters: list[str]) -> None:
    """Raises Repairable when the narration says a motion in the bundle's own words and nobody does it. Who is alone
    does at last what is said, one after the other. Where something is denied ("it does not dance"), a program cannot
    tell."""
    if words is None or NEGATION.search(scene.narration):
        return
    done = {region.motion for region in scene.regions}
    said = said_motions(scene.narration, motions_of(words) or ())
    missing = [motion for motion in said if motion not in done]
    if not missing:
        return
    reason = f"the narration says {missing[0]!r}, and no region does it"
    shown = {region.entity for region in scene.regions}
    if len(shown) != 1 or NONE in shown or len(said) > KEYFRAMES // MIN_KEYFRAMES:
        raise Repairable(reason, scene, "left as it is")
    entity, boxes = scene.regions[0].entity, {k: box for region in scene.regions for k, box in region.boxes.items()}
    where, many = stage_phrases(words, place)[0], KEYFRAMES // len(said)
    regions = tuple(
        Region(
            entity=entity, motion=motion, boxes={k: box for k, box in boxes.items() if n * many < k <= (n + 1) * many},
            caption=_caption(entity, motion, where, characters),
        )
        for n, motion in enumerate(said)
    )  # fmt: skip
    fits = all(len(region.boxes) >= MIN_KEYFRAMES for region in regions)
    raise Repairable(
        reason,
        scene.model_copy(update={"regions": regions}) if fits else scene,
        f"{entity} {' then '.join(said)}" if fits else "left as it is",
    )


def check_shown(scene: Scene, outline: StoryScene, words: Words | None, characters: list[str]) -> None:
    """Raises Repairable when the narration names a character that is not shown. Should no better answer come, a model
    of few words puts who is named in the place of one who is only spoken of, or of one who is not named when nobody is
    called "he" or "it", and shows who is named in one breath with another ("the pig and the fox", "with the fox")
    beside them, in the same motion. One that is given by a picture is put beside the others, in the first motion of the
    narration or the outline that nobody does, and so is another while the narration says such a motion. Else the name
    may be on a sign; then the scene is left as it is."""
    told = affirmed(scene.narration)
    cast = entities_of(words, characters) or characters
    shown = {region.entity for region in scene.regions}
    present = present_of(cast, told)
    missing = [name for name in present if name not in shown]
    missing.sort(key=lambda name: told.lower().find(name.lower()))
    if not missing:
        return
    reason = f"the narration names {' and '.join(missing)}, and no region shows them"
    where = stage_phrases(words, outline.place)[0] if words else f", {scene.background}"
    done: list[str] = []

    def put_beside(scene: Scene, entity: str, motion: str) -> Scene:
        done.append(f"{entity} put beside the others")
        return beside(scene, entity, motion, _caption(entity, motion, where, characters).replace(" ,", ","))

    for name in list(missing) if words else ():
        like = next((r for r in scene.regions if _in_one_breath(told, r.entity, name)), None)
        strange = [r.entity for r in scene.regions if r.entity not in (NONE, *present)]
        strange.sort(key=lambda entity: not named_of([entity], told))  # first who is only spoken of
        if strange and (named_of(strange[:1], told) or not SUBJECT.search(told)):
            scene = _instead(scene, strange[0], name, where, characters)
            done.append(f"{name} put in the place of {strange[0]}")
        elif like and len(scene.regions) < MAX_REGIONS:
            scene = put_beside(scene, name, like.motion)
        else:
            continue
        missing.remove(name)
    motions = {region.motion for region in scene.regions}
    said = [motion for motion in said_motions(told, motions_of(words) or ()) if motion not in motions]
    free = list(dict.fromkeys([*said, *(motion for motion in outline.motions if motion not in motions)]))
    given = [name for n, name in enumerate(missing) if name in characters or n < len(said)]
    for entity in given[: MAX_REGIONS - len(scene.regions)]:
        scene = put_beside(scene, entity, free.pop(0) if free else STILL)
    raise Repairable(reason, scene, ", ".join(done) or "left as it is")


def _in_one_breath(told: str, shown: str, name: str) -> bool:
    """Whether the text names the two side by side ("the pig, the panda and the fox"), or says "with the fox"."""
    some = r"(?:(?:an?|the|its|his|her|our) )?(?:\w+ )?"
    shown, name = re.escape(shown), re.escape(name)
    pairs = [f"{a},?(?: and)? {some}{b}" for a, b in ((shown, name), (name, shown))]
    return bool(re.search(rf"\b(?:{'|'.join(pairs)}|with {some}{name})\b", told, re.IGNORECASE))


def _instead(scene: Scene, old: str, new: str, where: str, characters: list[str]) -> Scene:
    """The scene with another in somebody's place."""
    regions = tuple(
        r.model_copy(update={"entity": new, "caption": _caption(new, r.motion, where, characters)})
        if r.entity == old
        else r
        for r in scene.regions
    )
    return scene.model_copy(update={"regions": regions})


def check_together(scene: Scene, place: str, before: str, words: Words, characters: list[str]) -> None:
    """Raises Repairable when the narration says "they" and a single character is shown, though those before name
    another: who was named last is put beside the one, and does the same."""
    told = affirmed(scene.narration)
    shown = {region.entity for region in scene.regions}
    if len(shown) != 1 or NONE in shown or not SEVERAL.search(told):
        return
    others = [name for name in named_of(entities_of(words, characters) or (), f"{before} {told}") if name not in shown]
    if not others:
        return
    last = max(others, key=lambda name: f"{before} {told}".lower().rfind(name.lower()))
    motion = scene.regions[0].motion
    caption = _caption(last, motion, stage_phrases(words, place)[0], characters)
    reason = f"the narration says they, and only {next(iter(shown))} is shown"
    raise Repairable(reason, beside(scene, last, motion, caption), f"{last} put beside")


def make_scene(
    answer: SceneAnswer,
    name: str,
    place: str,
    narration: str,
    bundle: Bundle,
    characters: list[str],
) -> Scene:
    """The plan's scene from a level-2 answer. Raises Refused; Repairable, with the scene put right by rule, when the
    answer breaks rules that a program can mend."""
    words = bundle.words
    where, empty = stage_phrases(words, place) if words else ("", answer.background or place)
    regions: list[Region] = []
    faults: list[str] = []
    for n, placed in enumerate(_one_after_another(_gone_on(answer.regions), faults), 1):
        at = f"region {n} ({placed.entity})"
        entity, motion = placed.entity, placed.motion
        if words and entity not in (entities_of(words, characters) or ()):
            raise Refused(f"{at}: no such entity")
        if words and motion not in (motions_of(words) or ()):
            raise Refused(f"{at}: no such motion {motion!r}")
        if words:
            caption = _caption(entity, motion, where, characters)
        else:
            entity, motion = known_name(entity, characters), normal_motion(motion)
            caption = _spoken(placed, entity, motion, characters)
        if len(caption.split()) >= bundle.text_tokens:
            raise Refused(f"{at}: the caption has more than {bundle.text_tokens - 1} words")
        boxes = _boxes(placed, at, faults)
        regions.append(Region(entity=entity, motion=motion, caption=caption, boxes=boxes))
    if any(names(empty, r.entity) for r in regions) and not any(names(place, r.entity) for r in regions):
        empty = place  # the background is free of characters
    try:
        scene = Scene(id=name, background=empty, narration=narration, regions=tuple(regions))
    except ValidationError as error:
        raise Refused(error.errors()[0]["msg"]) from None
    phrases = {entity: subject_phrase(entity, characters) for entity in characters}
    faults += [f"{found.where + ': ' if found.where else ''}{found.why}" for found in check_scene(scene, phrases)]
    if faults:
        repaired, done = repair_scene(scene, phrases, merge=words is None)
        raise Repairable("; ".join(faults[:3]), repaired, "; ".join(done) or "put in order")
    return scene


def _gone_on(regions: list[PlacedRegion]) -> list[PlacedRegion]:
    """Somebody who does the same thing twice, one right after the other, just goes on with it; twice at the same time,
    does it once, in the first box."""
    out: list[PlacedRegion] = []
    for placed in regions:
        before = next((n for n, region in reversed([*enumerate(out)]) if region.entity == placed.entity), None)
        if before is None or out[before].motion != placed.motion or out[before].frames[1] + 1 < placed.frames[0]:
            out.append(placed)
            continue
        (first, last), (again, end) = out[before].frames, placed.frames
        last_box = placed.last_box or placed.first_box if again == last + 1 else out[before].last_box
        frames = (min(first, again), max(last, end))
        out[before] = out[before].model_copy(update={"frames": frames, "last_box": last_box})
    return out


def _one_after_another(regions: list[PlacedRegion], faults: list[str]) -> list[PlacedRegion]:
    """Several motions of one entity at the same time follow each other, in the order in which they were given; where
    some said when, that is a fault."""
    shared: list[PlacedRegion] = []
    for entity in dict.fromkeys(placed.entity for placed in regions):
        same = [placed for placed in regions if placed.entity == entity]
        frames = [k for placed in same for k in range(min(placed.frames), max(placed.frames) + 1)]
        if entity == NONE or len(frames) == len(set(frames)):
            shared += same
            continue
        if any("frames" in placed.model_fields_set for placed in same):
            faults.append(f"{entity} has two regions in one keyframe; give each motion its own frames")
        same = same[: KEYFRAMES // MIN_KEYFRAMES]
        each = KEYFRAMES // len(same)
        shared += [
            placed.model_copy(update={"frames": (turn * each + 1, (turn + 1) * each)})
            for turn, placed in enumerate(same)
        ]
    return shared


def _boxes(placed: PlacedRegion, at: str, faults: list[str]) -> dict[int, Box]:
    """A box for each keyframe of the region: from the first to the last in equal steps, as shares of the picture."""
    first, last = min(placed.frames), max(placed.frames)
    if placed.frames[0] > placed.frames[1]:
        faults.append(f"{at}: frames: the first ({last}) comes after the last ({first})")
    given = [placed.first_box, placed.last_box or placed.first_box]
    ends = [_ordered(box) for box in given]
    if ends != given:
        faults.append(f"{at}: a box is [left, top, right, bottom], left less than right and top less than bottom")
    boxes = {}
    for keyframe in range(first, last + 1):
        share = (keyframe - first) / (last - first) if last > first else 0.0
        boxes[keyframe] = Box(*(round((a + (b - a) * share) / 100, 2) for a, b in zip(*ends, strict=True)))
    return boxes


def _ordered(box: PercentBox) -> PercentBox:
    """The box with its edges in order, and not empty."""
    (left, right), (top, bottom) = sorted((box[0], box[2])), sorted((box[1], box[3]))
    return min(left, 99), min(top, 99), max(right, min(left, 99) + 1), max(bottom, min(top, 99) + 1)


def known_name(entity: str, characters: list[str]) -> str:
    """The entity without its article; a given character's own name for "the old dragon"."""
    plain = re.sub(r"^(a|an|the)\s+", "", " ".join(entity.split()), flags=re.IGNORECASE) or entity
    return next((c for c in characters if names(plain, c)), NONE if plain.lower() == NONE else plain)


def subject_phrase(entity: str, characters: list[str]) -> str:
    """What captions call an entity: the k-th given character is "[vk] name", the words its prior learns."""
    return f"[v{characters.index(entity) + 1}] {entity}" if entity in characters else entity


def _caption(entity: str, motion: str, where: str, characters: list[str]) -> str:
    """Entity, motion and background, as a region's caption says them."""
    return f"{_article(entity)} {subject_phrase(entity, characters)} {motion} {where}"


def _spoken(placed: PlacedRegion, entity: str, motion: str, characters: list[str]) -> str:
    """The answer's caption with the motion's own name, and the token phrase in a given character's place."""
    caption = placed.caption or entity
    if motion != NONE and not names(caption, motion) and names(caption, placed.motion):
        caption = re.sub(rf"(?<!\w){re.escape(placed.motion)}(?!\w)", motion, caption, count=1, flags=re.IGNORECASE)
    noun = subject_phrase(entity, characters)
    if noun == entity or noun in caption:
        return caption
    return re.sub(rf"(?<!\w){re.escape(entity)}(?!\w)", noun, caption, count=1, flags=re.IGNORECASE)


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
