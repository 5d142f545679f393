"""What a planner model answers, and the scene that an answer means: entities, motions, captions, boxes, all checked."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.models import Bundle, Words
from engine.plan import KEYFRAMES, NONE, Box, Region, Scene

MAX_REGIONS = 4  # method: at most four motions a scene
MIN_SIDE = 20  # percent; smaller boxes hold too few tokens
MAX_SAME = 0.8  # of two boxes' common area: more than this is one place given twice


class Refused(ValueError):
    """Why an answer cannot be used; the language model is told."""


class Repairable(Refused):
    """Why an answer should not be used; and, when no better one comes, what a program makes of it, and how. When the
    repair is `certain`, nothing better can come."""

    def __init__(self, reason: str, answer: Any, repair: str, certain: bool = False) -> None:
        super().__init__(reason)
        self.answer, self.repair, self.certain = answer, repair, certain


class StoryScene(BaseModel):
    """One scene of a level-1 answer."""

    model_config = ConfigDict(extra="forbid")

    sentences: Annotated[list[int], Field(min_length=1)]
    place: Annotated[str, Field(min_length=1, max_length=200)]
    motions: Annotated[list[str], Field(max_length=MAX_REGIONS)] = []


class StoryAnswer(BaseModel):
    """Level 1."""

    model_config = ConfigDict(extra="forbid")

    scenes: Annotated[list[StoryScene], Field(min_length=1)]


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


def parse_answer(kind: type[Any], text: str) -> Any:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(f"{where}: {first['msg']}" if where else first["msg"]) from None


def check_sentences(scenes: list[StoryScene], sentences: list[str]) -> None:
    """Raises Refused unless the scenes hold every sentence once, in order."""
    used = [n for scene in scenes for n in scene.sentences]
    if used != list(range(1, len(sentences) + 1)):
        missing = [n for n in range(1, len(sentences) + 1) if n not in used]
        why = f"no scene has sentence {missing[0]}" if missing else f"they come in the order {used}"
        raise Refused(f"every sentence belongs to exactly one scene, in order; {why}")
    for n, scene in enumerate(scenes, 1):
        if sum(len(sentences[k - 1]) + 1 for k in scene.sentences) > 2000:
            raise Refused(f"scene {n} has more than 2000 letters; divide it")


def check_places(scenes: list[StoryScene], sentences: list[str], words: Words | None) -> None:
    """Raises Repairable when the sentences of a scene name one place in the bundle's own words ("in the forest") and
    the answer gives another. A model that reads any text is not held to this."""
    if words is None:
        return
    wrong, right = [], []
    for n, scene in enumerate(scenes, 1):
        told = " ".join(sentences[k - 1] for k in scene.sentences).lower()
        named = [stage for stage in words.stages if stage_phrases(words, stage)[0] in told]
        if len(named) == 1 and scene.place != named[0]:
            wrong.append(f"scene {n} is {stage_phrases(words, named[0])[0]}, so its place is {named[0]}")
            scene = scene.model_copy(update={"place": named[0]})
        right.append(scene)
    if wrong:
        raise Repairable("; ".join(wrong), right, "given the place that the story names", certain=True)


def check_motions(scene: Scene, words: Words | None) -> None:
    """Raises Repairable when the narration names a motion in the bundle's own words and nobody does it."""
    done = {region.motion for region in scene.regions}
    missing = [m for m in motions_of(words) or () if m in scene.narration.lower() and m not in done]
    if missing:
        raise Repairable(f"the narration says {missing[0]!r}, and no region does it", scene, "left as it is")


def entities_of(words: Words | None, characters: list[str]) -> list[str] | None:
    return list(dict.fromkeys([*words.characters, *characters])) if words else None


def motions_of(words: Words | None) -> list[str] | None:
    return [*words.motions, *words.library_motions] if words else None


def make_scene(
    answer: SceneAnswer,
    name: str,
    place: str,
    narration: str,
    bundle: Bundle,
    characters: list[str],
) -> Scene:
    """The plan's scene from a level-2 answer. Raises Refused; Repairable when two entities are in one place and nothing
    else is wrong."""
    words = bundle.words
    where, empty = stage_phrases(words, place) if words else ("", answer.background or place)
    regions = []
    for n, placed in enumerate(_one_after_another(answer.regions), 1):
        at = f"region {n} ({placed.entity})"
        if words and placed.entity not in (entities_of(words, characters) or ()):
            raise Refused(f"{at}: no such entity")
        if words and placed.motion not in (motions_of(words) or ()):
            raise Refused(f"{at}: no such motion {placed.motion!r}")
        noun = subject_phrase(placed.entity, characters)
        if words:
            caption = f"{_article(placed.entity)} {noun} {placed.motion} {where}"
        else:
            caption = _with_subject(placed.caption or "", placed.entity, noun, at)
        if len(caption.split()) >= bundle.text_tokens:
            raise Refused(f"{at}: the caption has more than {bundle.text_tokens - 1} words")
        boxes = _boxes(placed, at)
        regions.append(Region(entity=placed.entity, motion=placed.motion, caption=caption, boxes=boxes))

    def scene(regions: list[Region]) -> Scene:
        try:
            return Scene(id=name, background=empty, narration=narration, regions=tuple(regions))
        except ValidationError as error:
            raise Refused(error.errors()[0]["msg"]) from None

    if shared := _shared_place(regions):
        raise Repairable(shared, scene(_side_by_side(regions)), "given places side by side")
    return scene(regions)


def _one_after_another(regions: list[PlacedRegion]) -> list[PlacedRegion]:
    """Two or three motions of one entity, none with frames, follow each other in the order in which they were given."""
    shared = []
    for placed in regions:
        same = [other for other in regions if other.entity == placed.entity != NONE]
        if len(same) in (2, 3) and not any("frames" in other.model_fields_set for other in same):
            each, turn = KEYFRAMES // len(same), [id(other) for other in same].index(id(placed))
            placed = placed.model_copy(update={"frames": (turn * each + 1, (turn + 1) * each)})
        shared.append(placed)
    return shared


def _boxes(placed: PlacedRegion, at: str) -> dict[int, Box]:
    """A box for each keyframe of the region: from the first to the last in equal steps, as shares of the picture."""
    first, last = placed.frames
    if first > last:
        raise Refused(f"{at}: frames: the first ({first}) comes after the last ({last})")
    ends = placed.first_box, placed.last_box or placed.first_box
    for left, top, right, bottom in ends:
        if right - left < MIN_SIDE or bottom - top < MIN_SIDE:
            raise Refused(f"{at}: the box {[left, top, right, bottom]} has a side of less than {MIN_SIDE} percent")
    boxes = {}
    for keyframe in range(first, last + 1):
        share = (keyframe - first) / (last - first) if last > first else 0.0
        boxes[keyframe] = Box(*(round((a + (b - a) * share) / 100, 2) for a, b in zip(*ends, strict=True)))
    return boxes


def _side_by_side(regions: list[Region]) -> list[Region]:
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
        side = MIN_SIDE / 100
        wide = {k: b if b.right - b.left >= side else _widened(b, side, start, width) for k, b in boxes.items()}
        out.append(Region(entity=region.entity, motion=region.motion, caption=region.caption, boxes=wide))
    return out


def _widened(box: Box, side: float, start: float, width: float) -> Box:
    """The box at least `side` wide, within the lane that begins at `start`."""
    left = round(max(start, min((box.left + box.right - side) / 2, start + width - side)), 2)
    return Box(left, box.top, round(min(left + side, 1), 2), box.bottom)


def _shared_place(regions: list[Region]) -> str:
    """Who is in the very same place as another, or "". Raises Refused when somebody is twice in one keyframe."""
    shared = ""
    for n, one in enumerate(regions):
        for other in regions[n + 1 :]:
            for keyframe in one.boxes.keys() & other.boxes.keys():
                if one.entity == other.entity and one.entity != NONE:
                    raise Refused(
                        f"{one.entity} has two regions in keyframe {keyframe}; give each motion its own frames"
                    )
                if _common_share(one.boxes[keyframe], other.boxes[keyframe]) > MAX_SAME:
                    shared = shared or f"{one.entity} and {other.entity} are in the same place in keyframe {keyframe}"
    return shared


def _common_share(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    common = max(width, 0) * max(height, 0)
    areas = [(box.right - box.left) * (box.bottom - box.top) for box in (a, b)]
    return common / (sum(areas) - common)


def subject_phrase(entity: str, characters: list[str]) -> str:
    """What captions call an entity: the k-th given character is "[vk] name", the words its prior learns."""
    return f"[v{characters.index(entity) + 1}] {entity}" if entity in characters else entity


def _with_subject(caption: str, entity: str, noun: str, at: str) -> str:
    """The caption with the token phrase in the entity's place. Raises Refused when the entity is not in it."""
    name = re.compile(rf"\b{re.escape(entity)}\b", re.IGNORECASE)
    if entity != NONE and not name.search(caption):
        raise Refused(f"{at}: the caption must name {entity!r}")
    return caption if noun == entity or noun in caption else name.sub(noun, caption, count=1)


def stage_phrases(words: Words, stage: str) -> tuple[str, str]:
    """Where one is on the stage, and what the empty stage is called: ("in the forest", "a green forest")."""
    return words.places.get(stage, (f"in the {stage}", f"the {stage}"))


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
