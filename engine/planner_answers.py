"""What a planner model answers, and the scene that an answer means: entities, motions, captions, boxes, all checked."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.models import Bundle, Words
from engine.motion_names import normal_motion
from engine.plan import KEYFRAMES, NONE, Box, Region, Scene
from engine.plan_repair import repair_scene
from engine.plan_rules import MIN_KEYFRAMES, check_scene, names

MAX_REGIONS = 4  # method: at most four motions a scene
NEGATION = re.compile(
    r"\b(not|no|nobody|never|without|instead|cannot|wants?|wanted|refuses?d?)\b|n['’]t\b", re.IGNORECASE
)


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


class TopicAnswer(BaseModel):
    """A story on a topic."""

    model_config = ConfigDict(extra="forbid")

    sentences: Annotated[list[Annotated[str, Field(min_length=1, max_length=400)]], Field(min_length=1, max_length=12)]


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
    """The answer of a kind. What stands around its braces (a model that is not bound to JSON may chat) is left out."""
    try:
        return kind.model_validate_json(text[text.find("{") : text.rfind("}") + 1] or text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(f"{where}: {first['msg']}" if where else first["msg"]) from None


def check_invented(sentences: list[str]) -> None:
    """Raises Repairable when a sentence of an invented story comes twice."""
    once = list(dict.fromkeys(sentences))
    if len(once) < len(sentences):
        raise Repairable("a sentence comes twice; something new must happen in each", once, "told once")


def check_sentences(scenes: list[StoryScene], sentences: list[str]) -> None:
    """Raises Refused unless the scenes hold every sentence once, in order; Repairable when only that is wrong."""
    used = [n for scene in scenes for n in scene.sentences]
    if used != list(range(1, len(sentences) + 1)):
        missing = [n for n in range(1, len(sentences) + 1) if n not in used]
        why = f"no scene has sentence {missing[0]}" if missing else f"they come in the order {used}"
        reason = f"every sentence belongs to exactly one scene, in order; {why}"
        raise Repairable(reason, _in_order(scenes, len(sentences)), "sentences given to the scenes in order")
    for n, scene in enumerate(scenes, 1):
        if sum(len(sentences[k - 1]) + 1 for k in scene.sentences) > 2000:
            raise Refused(f"scene {n} has more than 2000 letters; divide it")


def _in_order(scenes: list[StoryScene], count: int) -> list[StoryScene]:
    """Each sentence in the first scene that claims it, no earlier than its predecessor's, else in its predecessor's;
    scenes without a sentence are left out."""
    owner, now = [], 0
    for sentence in range(1, count + 1):
        now = next((n for n in range(now, len(scenes)) if sentence in scenes[n].sentences), now)
        owner.append(now)
    return [
        scene.model_copy(update={"sentences": [k for k, n in enumerate(owner, 1) if n == number]})
        for number, scene in enumerate(scenes)
        if number in owner
    ]


def check_places(scenes: list[StoryScene], sentences: list[str], words: Words | None) -> None:
    """Raises Repairable when the sentences of a scene name one place in the bundle's own words ("in the forest") and
    the answer gives another. A model that reads any text is not held to this."""
    if words is None:
        return
    wrong, right = [], []
    for n, scene in enumerate(scenes, 1):
        told = " ".join(s.lower() for s in (sentences[k - 1] for k in scene.sentences) if not NEGATION.search(s))
        named = [stage for stage in words.stages if stage_phrases(words, stage)[0] in told]
        if len(named) == 1 and scene.place != named[0]:
            wrong.append(f"scene {n} is {stage_phrases(words, named[0])[0]}, so its place is {named[0]}")
            scene = scene.model_copy(update={"place": named[0]})
        right.append(scene)
    if wrong:
        raise Repairable("; ".join(wrong), right, "given the place that the story names", certain=True)


def check_motions(scene: Scene, words: Words | None) -> None:
    """Raises Repairable when the narration names a motion in the bundle's own words and nobody does it. Where something
    is denied ("it does not dance"), a program cannot tell."""
    if NEGATION.search(scene.narration):
        return
    done = {region.motion for region in scene.regions}
    missing = [m for m in motions_of(words) or () if names(scene.narration, m) and m not in done]
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
    """The plan's scene from a level-2 answer. Raises Refused; Repairable, with the scene put right by rule, when the
    answer breaks rules that a program can mend."""
    words = bundle.words
    where, empty = stage_phrases(words, place) if words else ("", answer.background or place)
    regions: list[Region] = []
    faults: list[str] = []
    for n, placed in enumerate(_one_after_another(answer.regions, faults), 1):
        at = f"region {n} ({placed.entity})"
        entity, motion = placed.entity, placed.motion
        if words and entity not in (entities_of(words, characters) or ()):
            raise Refused(f"{at}: no such entity")
        if words and motion not in (motions_of(words) or ()):
            raise Refused(f"{at}: no such motion {motion!r}")
        if words:
            caption = f"{_article(entity)} {subject_phrase(entity, characters)} {motion} {where}"
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


def _spoken(placed: PlacedRegion, entity: str, motion: str, characters: list[str]) -> str:
    """The answer's caption with the motion's own name, and the token phrase in a given character's place."""
    caption = placed.caption or entity
    if motion != NONE and not names(caption, motion) and names(caption, placed.motion):
        caption = re.sub(rf"(?<!\w){re.escape(placed.motion)}(?!\w)", motion, caption, count=1, flags=re.IGNORECASE)
    noun = subject_phrase(entity, characters)
    if noun == entity or noun in caption:
        return caption
    return re.sub(rf"(?<!\w){re.escape(entity)}(?!\w)", noun, caption, count=1, flags=re.IGNORECASE)


def stage_phrases(words: Words, stage: str) -> tuple[str, str]:
    """Where one is on the stage, and what the empty stage is called: ("in the forest", "a green forest")."""
    return words.places.get(stage, (f"in the {stage}", f"the {stage}"))


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
