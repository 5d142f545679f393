"""Story -> plan, in two levels over any chat model (paper, section 3.1).

1. Story: its sentences, numbered, are divided into scenes, each with a place and motions. The narration of a scene is
   put together from its sentences here, so that no word of the story is changed.
2. Scene, all of them at once: who is where, doing what, in a box at the first and at the last keyframe.

Answers are constrained to a JSON schema, and to the words of the model bundle when it has a closed vocabulary. What is
still wrong goes back with the reason; after `ATTEMPTS` answers the planning has failed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import jinja2
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.chat import ChatModel, Message
from engine.errors import InputError
from engine.models import Bundle, Words
from engine.plan import KEYFRAMES, MAX_SCENES, NONE, Box, Plan, Region, Scene
from engine.story import Story

ATTEMPTS = 3
MAX_REGIONS = 4  # method: at most four motions a scene
MIN_SIDE = 20  # percent; smaller boxes hold too few tokens
MAX_SAME = 0.8  # of two boxes' common area: more than this is one place given twice
SENTENCE_LETTERS = 400  # longer ones are cut, so that no single line fills the model's context
SCENE_TOKENS = 700  # of an answer
SYSTEM = "You plan animated films."
PRONOUNS = re.compile(r"\b(it|its|he|she|his|her|him|they|them|both|two)\b", re.IGNORECASE)

Report = Callable[[int, int], None]
Answer = TypeVar("Answer")


class PlanningFailed(InputError):
    """The language model gave no usable answer. The message names the scene and the last reason."""


class _Refused(ValueError):
    """Why an answer cannot be used; the language model is told."""


class _SamePlace(_Refused):
    """Two entities in one place, and nothing else is wrong."""


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


@dataclass(frozen=True)
class Planning:
    """A plan, and every raw answer that led to it: level, scene, attempt, prompt, answer, and why it was refused."""

    plan: Plan
    answers: list[dict[str, Any]]


async def plan_story(story: Story, bundle: Bundle, chat: ChatModel, seed: int, report: Report) -> Planning:
    """The plan of a story. `report(scenes planned, scenes in all)`; the second is 0 until level 1 is done.

    Raises InputError for an empty story, and PlanningFailed, an InputError, when an answer stays invalid.
    """
    return await _Planner(story, bundle, chat, seed, report).plan()


@dataclass
class _Planner:
    story: Story
    bundle: Bundle
    chat: ChatModel
    seed: int
    report: Report
    answers: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0

    async def plan(self) -> Planning:
        self.report(0, 0)
        sentences = split_sentences(self.story.text)
        if not sentences:
            raise InputError("story: text: it is empty; write what happens, a sentence or more for each scene")
        outline: list[tuple[str, StoryScene]] = []  # narration, scene
        size = sentences_at_once(self.bundle)
        for start in range(0, len(sentences), size):
            piece = sentences[start : start + size]
            for scene in await self._divide(piece, start + 1):
                outline.append((" ".join(piece[n - 1] for n in scene.sentences), scene))
        if len(outline) > MAX_SCENES:
            raise PlanningFailed(f"story: it became {len(outline)} scenes, a film has at most {MAX_SCENES}; divide it")
        self.report(0, len(outline))
        told = [narration for narration, _ in outline]
        befores = [" ".join(told[max(n - 2, 0) : n]) for n in range(len(told))]  # two scenes may introduce "them"
        tasks = [
            asyncio.ensure_future(self._place(f"scene-{n}-{slug(scene.place)}", scene, narration, before, len(outline)))
            for n, ((narration, scene), before) in enumerate(zip(outline, befores, strict=True), 1)
        ]
        try:
            scenes = await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # when one has failed, the others' answers are of no use
                task.cancel()
        self.answers.sort(key=lambda a: (a["level"] != "story", a["number"], a["attempt"]))
        return Planning(Plan(title=self.story.title, scenes=tuple(scenes)), self.answers)

    async def _divide(self, sentences: list[str], first: int) -> list[StoryScene]:
        messages = story_messages(self.bundle, sentences, list(self.story.characters))
        schema = story_schema(self.bundle.words, len(sentences))

        def accept(text: str, last: bool) -> list[StoryScene]:
            scenes = _parse(StoryAnswer, text).scenes
            check_sentences(scenes, sentences)
            return scenes

        what = f"sentences {first} to {first + len(sentences) - 1}"
        return await self._ask("story", what, first, messages, schema, 64 + 60 * len(sentences), accept)

    async def _place(self, name: str, outline: StoryScene, narration: str, before: str, total: int) -> Scene:
        characters = list(self.story.characters)
        messages = scene_messages(self.bundle, outline, narration, before, characters)
        schema = scene_schema(self.bundle.words, characters, narration, before)

        def accept(text: str, last: bool) -> Scene:
            answer = _parse(SceneAnswer, text)
            try:
                return make_scene(answer, name, outline.place, narration, self.bundle, characters)
            except _SamePlace as error:  # all else is right, and a program can put it right
                if not last:
                    raise
                self.answers[-1]["repaired"] = f"{error}: given places side by side"
                return make_scene(answer, name, outline.place, narration, self.bundle, characters, side_by_side=True)

        number = int(name.split("-")[1])
        scene = await self._ask("scene", name, number, messages, schema, SCENE_TOKENS, accept)
        self.done += 1
        self.report(self.done, total)
        return scene

    async def _ask(
        self, level: Literal["story", "scene"], what: str, number: int, messages: list[Message], schema: dict,
        max_tokens: int, accept: Callable[[str, bool], Answer],
    ) -> Answer:  # fmt: skip
        """Asks until `accept(text, is it the last attempt)` takes the answer, telling each time what was wrong."""
        reason, asked = "", list(messages)
        for attempt in range(1, ATTEMPTS + 1):
            text = await self.chat.complete(
                asked, schema, self.seed + attempt - 1, max_tokens,
                temperature=0.0 if attempt == 1 else 0.6,  # the same question again would get the same answer
            )  # fmt: skip
            note = {"level": level, "scene": what, "number": number, "attempt": attempt}
            self.answers.append({**note, "prompt": asked, "answer": text, "refused": None})
            try:
                return accept(text, attempt == ATTEMPTS)
            except _Refused as error:
                reason = self.answers[-1]["refused"] = str(error)
            again = f"That cannot be used: {reason}. Answer again, with JSON alone."
            asked = [*messages, {"role": "assistant", "content": text}, {"role": "user", "content": again}]
        raise PlanningFailed(
            f"story: {what}: the planner gave no usable answer in {ATTEMPTS} attempts ({reason}); "
            "say it in plainer sentences, or write the plan by hand"
        )


# Prompts


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "prompts"),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _messages(bundle: Bundle, level: str, **values: Any) -> list[Message]:
    """A model that was tuned to the task is asked briefly; any other is told the rules and shown an example."""
    tuned = bundle.planner is not None and bundle.planner.adapter is not None
    text = _templates().get_template(f"{level}-tuned.txt" if tuned else f"{level}.txt").render(**values)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text.strip()}]


def story_messages(bundle: Bundle, sentences: list[str], characters: list[str]) -> list[Message]:
    """The question of level 1."""
    return _messages(bundle, "story", sentences=sentences, characters=characters, words=bundle.words)


def scene_messages(
    bundle: Bundle, outline: StoryScene, narration: str, before: str, characters: list[str]
) -> list[Message]:
    """The question of level 2. `before`: the narration of the two scenes before, told when this one says "it"."""
    return _messages(
        bundle, "scene", place=outline.place, motions=outline.motions or ["stands still"], narration=narration,
        before=before if PRONOUNS.search(narration) else "", characters=characters, words=bundle.words,
        entities=_entities(bundle.words, characters),
        keyframes=KEYFRAMES, max_regions=MAX_REGIONS, min_side=MIN_SIDE,
    )  # fmt: skip


# Schemas


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _list(items: dict[str, Any], least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _text(choice: list[str] | None, most: int = 200) -> dict[str, Any]:
    return {"type": "string", "enum": choice} if choice else {"type": "string", "minLength": 1, "maxLength": most}


def _entities(words: Words | None, characters: list[str]) -> list[str] | None:
    return list(dict.fromkeys([*words.characters, *characters])) if words else None


def _motions(words: Words | None) -> list[str] | None:
    return [*words.motions, *words.library_motions] if words else None


def story_schema(words: Words | None, sentences: int) -> dict[str, Any]:
    """JSON schema of a level-1 answer on so many sentences."""
    scene = {
        "sentences": _list({"type": "integer", "minimum": 1, "maximum": sentences}, 1, sentences),
        "place": _text(list(words.stages) if words else None),
        "motions": _list(_text(_motions(words), 60), 0, MAX_REGIONS),
    }
    return _object({"scenes": _list(_object(scene), 1, sentences)})


def told_entities(words: Words, characters: list[str], narration: str, before: str) -> list[str]:
    """Who may be in the scene, since nothing beyond the narration is to be shown: those it names, and with "it" or
    "they" those named before; anybody when it names nobody (a bunny may be the rabbit)."""
    told = f"{narration} {before}" if PRONOUNS.search(narration) else narration
    known = _entities(words, characters) or []
    return [name for name in known if re.search(rf"\b{re.escape(name)}(s|es)?\b", told, re.IGNORECASE)] or known


def scene_schema(words: Words | None, characters: list[str], narration: str = "", before: str = "") -> dict[str, Any]:
    """JSON schema of a level-2 answer."""
    box = _list({"type": "integer", "minimum": 0, "maximum": 100}, 4, 4)
    region = {
        "entity": _text(told_entities(words, characters, narration, before) if words else None, 60),
        "motion": _text(_motions(words), 60),
        **({} if words else {"caption": _text(None)}),
        "frames": _list({"type": "integer", "minimum": 1, "maximum": KEYFRAMES}, 2, 2),
        "from": box,
        "to": box,
    }
    regions = _list(_object(region, optional=("frames", "to")), 0, MAX_REGIONS)
    return _object({**({} if words else {"reason": _text(None, 400), "background": _text(None)}), "regions": regions})


# Answers


def _parse(kind: type[Any], text: str) -> Any:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _Refused(f"{where}: {first['msg']}" if where else first["msg"]) from None


def check_sentences(scenes: list[StoryScene], sentences: list[str]) -> None:
    """Raises _Refused unless the scenes hold every sentence once, in order."""
    used = [n for scene in scenes for n in scene.sentences]
    if used != list(range(1, len(sentences) + 1)):
        missing = [n for n in range(1, len(sentences) + 1) if n not in used]
        why = f"no scene has sentence {missing[0]}" if missing else f"they come in the order {used}"
        raise _Refused(f"every sentence belongs to exactly one scene, in order; {why}")
    for n, scene in enumerate(scenes, 1):
        if sum(len(sentences[k - 1]) + 1 for k in scene.sentences) > 2000:
            raise _Refused(f"scene {n} has more than 2000 letters; divide it")


def make_scene(
    answer: SceneAnswer,
    name: str,
    place: str,
    narration: str,
    bundle: Bundle,
    characters: list[str],
    side_by_side: bool = False,
) -> Scene:
    """The plan's scene from a level-2 answer. Raises _Refused; _SamePlace, unless entities go `side_by_side`."""
    words = bundle.words
    where, empty = stage_phrases(words, place) if words else ("", answer.background or place)
    regions = []
    for n, placed in enumerate(_one_after_another(answer.regions), 1):
        at = f"region {n} ({placed.entity})"
        if words and placed.entity not in (_entities(words, characters) or ()):
            raise _Refused(f"{at}: no such entity")
        if words and placed.motion not in (_motions(words) or ()):
            raise _Refused(f"{at}: no such motion {placed.motion!r}")
        noun = subject_phrase(placed.entity, characters)
        if words:
            caption = f"{_article(placed.entity)} {noun} {placed.motion} {where}"
        else:
            caption = _with_subject(placed.caption or "", placed.entity, noun, at)
        if len(caption.split()) >= bundle.text_tokens:
            raise _Refused(f"{at}: the caption has more than {bundle.text_tokens - 1} words")
        boxes = _boxes(placed, at)
        regions.append(Region(entity=placed.entity, motion=placed.motion, caption=caption, boxes=boxes))
    if side_by_side:
        regions = _side_by_side(regions)
    _check_apart(regions)
    try:
        return Scene(id=name, background=empty, narration=narration, regions=tuple(regions))
    except ValidationError as error:
        raise _Refused(error.errors()[0]["msg"]) from None


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
        raise _Refused(f"{at}: frames: the first ({first}) comes after the last ({last})")
    ends = placed.first_box, placed.last_box or placed.first_box
    for left, top, right, bottom in ends:
        if right - left < MIN_SIDE or bottom - top < MIN_SIDE:
            raise _Refused(f"{at}: the box {[left, top, right, bottom]} has a side of less than {MIN_SIDE} percent")
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


def _check_apart(regions: list[Region]) -> None:
    """Nobody twice in one keyframe, and no two in the very same place."""
    for n, one in enumerate(regions):
        for other in regions[n + 1 :]:
            for keyframe in one.boxes.keys() & other.boxes.keys():
                if one.entity == other.entity and one.entity != NONE:
                    raise _Refused(
                        f"{one.entity} has two regions in keyframe {keyframe}; give each motion its own frames"
                    )
                if _common_share(one.boxes[keyframe], other.boxes[keyframe]) > MAX_SAME:
                    raise _SamePlace(f"{one.entity} and {other.entity} are in the same place in keyframe {keyframe}")


def _common_share(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    common = max(width, 0) * max(height, 0)
    areas = [(box.right - box.left) * (box.bottom - box.top) for box in (a, b)]
    return common / (sum(areas) - common)


# Words


def subject_phrase(entity: str, characters: list[str]) -> str:
    """What captions call an entity: the k-th given character is "[vk] name", the words its prior learns."""
    return f"[v{characters.index(entity) + 1}] {entity}" if entity in characters else entity


def _with_subject(caption: str, entity: str, noun: str, at: str) -> str:
    """The caption with the token phrase in the entity's place. Raises _Refused when the entity is not in it."""
    name = re.compile(rf"\b{re.escape(entity)}\b", re.IGNORECASE)
    if entity != NONE and not name.search(caption):
        raise _Refused(f"{at}: the caption must name {entity!r}")
    return caption if noun == entity or noun in caption else name.sub(noun, caption, count=1)


def stage_phrases(words: Words, stage: str) -> tuple[str, str]:
    """Where one is on the stage, and what the empty stage is called: ("in the forest", "a green forest")."""
    return words.places.get(stage, (f"in the {stage}", f"the {stage}"))


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def slug(text: str) -> str:
    """The first words of a text, fit for a scene's id."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return "-".join(plain.split("-")[:4])[:40].strip("-") or "somewhere"


def sentences_at_once(bundle: Bundle) -> int:
    """How many sentences one level-1 question holds: as many as fit the model's context with their answer."""
    return max(4, (bundle.planner.max_model_len if bundle.planner else 8192) // 256)


_TITLES = r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)"  # a full stop that ends no sentence
_END = re.compile(rf"((?<=[.!?]){_TITLES}|(?<=[.!?][\"'”’)]))\s+(?=[^a-z])")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, nothing lost but the white space between them; very long ones are cut between words."""
    sentences: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in _END.sub("\n", " ".join(paragraph.split())).split("\n"):
            while len(sentence) > SENTENCE_LETTERS:
                cut = sentence.rfind(" ", 1, SENTENCE_LETTERS)
                cut = cut if cut > 0 else SENTENCE_LETTERS
                sentences.append(sentence[:cut])
                sentence = sentence[cut:].strip()
            sentences += [sentence] if sentence else []
    return sentences
