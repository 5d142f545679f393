"""Story -> plan, in two levels over any chat model (paper, section 3.1).

0. A topic alone is first made a story.
1. Story: its sentences, numbered, are divided into scenes, each with a place and motions. The narration of a scene is
   put together from its sentences here, so that no word of the story is changed.
2. Scene, all of them at once: who is where, doing what, in a box at the first and at the last keyframe.

Answers are constrained to a JSON schema, and to the words of the model bundle when it has a closed vocabulary. What is
still wrong goes back with the reason; after `ATTEMPTS` answers the planning has failed.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from engine.chat import ChatModel, Message
from engine.errors import InputError
from engine.models import Bundle
from engine.plan import MAX_SCENES, Plan, Scene
from engine.plan_repair import consistent_names
from engine.planner_answers import SceneAnswer, check_motions, check_shown, check_together, make_scene
from engine.planner_names import by_kind
from engine.planner_outline import (
    Refused,
    Repairable,
    StoryAnswer,
    StoryScene,
    TopicAnswer,
    check_invented,
    check_outline,
    entities_of,
    joined,
    parse_answer,
)  # fmt: skip
from engine.planner_prompts import (
    before_of,
    check_cast,
    scene_messages,
    scene_schema,
    sentences_at_once,
    split_sentences,
    story_messages,
    story_schema,
    topic_messages,
    topic_schema,
)  # fmt: skip
from engine.story import Story

ATTEMPTS = 3
SCENE_TOKENS = 700  # of an answer
TOPIC_TOKENS = 400
LEVELS = ("topic", "story", "scene")

Report = Callable[[int, int], None]
Answer = TypeVar("Answer")


class PlanningFailed(InputError):
    """The language model gave no usable answer. The message names the scene and the last reason."""


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

    def __post_init__(self) -> None:
        self.text = self.story.text

    async def plan(self) -> Planning:
        self.report(0, 0)
        if self.story.topic:
            self.text = await self._invent()
        sentences = split_sentences(self.text)
        if not sentences:
            raise InputError("story: text: it is empty; write what happens, a sentence or more for each scene")
        check_cast(self.text, list(self.story.characters), self.bundle)
        cast = entities_of(self.bundle.words, list(self.story.characters)) or ()
        heard = by_kind(sentences, cast)
        outline = await self._outline(heard)
        self.report(0, len(outline))
        told = [[heard[n - 1] for n in scene.sentences] for scene in outline]
        narrations = [" ".join(its) for its in told]
        tasks = []
        for n, scene in enumerate(outline):
            acted = [heard[k - 1] for k in scene.sentences if k not in scene.quiet] or told[n]
            # several scenes may introduce "them", and so may what this one begins with
            before = [*before_of(narrations[:n], cast), *told[n][: told[n].index(acted[0])]]
            name = f"scene-{n + 1}-{slug(scene.place)}"
            asking = self._place(name, scene, " ".join(acted), " ".join(before), len(outline))
            tasks.append(asyncio.ensure_future(asking))
        try:
            placed = await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # when one has failed, the others' answers are of no use
                task.cancel()
        scenes = [
            scene.model_copy(update={"narration": " ".join(sentences[n - 1] for n in its.sentences)})
            for scene, its in zip(placed, outline, strict=True)
        ]
        self.answers.sort(key=lambda a: (LEVELS.index(a["level"]), a["number"], a["attempt"]))
        if self.bundle.words is None:
            scenes, renamed = consistent_names(scenes)
            if renamed:
                how = "; ".join(f"{entity!r} is called {name!r}" for entity, name in renamed.items())
                note = {"level": "film", "scene": "all scenes", "number": 0, "attempt": 1, "prompt": [], "answer": ""}
                self.answers.append({**note, "refused": None, "repaired": f"characters keep their names: {how}"})
        return Planning(Plan(title=self.story.title or self.story.topic, scenes=tuple(scenes)), self.answers)

    async def _invent(self) -> str:
        """A story on the topic, by the model as it is without an adapter."""
        characters = list(self.story.characters)
        messages = topic_messages(self.bundle, self.story.topic, characters)

        def accept(text: str) -> list[str]:
            sentences = parse_answer(TopicAnswer, text).sentences
            check_invented(sentences)
            return sentences

        schema = topic_schema(self.bundle.words, characters)
        return " ".join(await self._ask("topic", "the topic", 0, messages, schema, TOPIC_TOKENS, accept))

    async def _outline(self, sentences: list[str]) -> list[StoryScene]:
        """Level 1, piece by piece: each begins where the one before ended."""
        outline: list[StoryScene] = []
        size = sentences_at_once(self.bundle)
        for start in range(0, len(sentences), size):
            for scene in await self._divide(sentences, start, size, outline[-1].place if outline else ""):
                outline.append(scene.moved(start))
        if self.bundle.words and len(sentences) > size:  # what only describes may stand at a piece's end
            outline = joined(outline, sentences)
        if len(outline) > MAX_SCENES:
            raise PlanningFailed(f"story: it became {len(outline)} scenes, a film has at most {MAX_SCENES}; divide it")
        return outline

    async def _divide(self, sentences: list[str], start: int, size: int, place: str) -> list[StoryScene]:
        piece = sentences[start : start + size]
        messages = story_messages(self.bundle, sentences, start, size, list(self.story.characters), place)
        schema = story_schema(self.bundle.words, piece)

        def accept(text: str) -> list[StoryScene]:
            return check_outline(parse_answer(StoryAnswer, text).scenes, piece, self.bundle.words)

        what = f"sentences {start + 1} to {start + len(piece)}"
        return await self._ask("story", what, start + 1, messages, schema, 64 + 60 * len(piece), accept)

    async def _place(self, name: str, outline: StoryScene, narration: str, before: str, total: int) -> Scene:
        characters = list(self.story.characters)
        messages = scene_messages(self.bundle, outline, narration, before, characters)
        schema = scene_schema(self.bundle.words, characters, narration, before, self.text)

        def accept(text: str) -> Scene:
            answer = parse_answer(SceneAnswer, text)
            scene = make_scene(answer, name, outline.place, narration, self.bundle, characters)
            check_shown(scene, outline, self.bundle.words, characters)
            if self.bundle.words:
                check_together(scene, outline.place, before, self.bundle.words, characters)
            check_motions(scene, outline.place, self.bundle.words, characters)
            return scene

        number = int(name.split("-")[1])
        scene = await self._ask("scene", name, number, messages, schema, SCENE_TOKENS, accept)
        self.done += 1
        self.report(self.done, total)
        return scene

    async def _ask(
        self, level: Literal["topic", "story", "scene"], what: str, number: int, messages: list[Message], schema: dict,
        max_tokens: int, accept: Callable[[str], Answer],
    ) -> Answer:  # fmt: skip
        """Asks until `accept` takes the answer, telling each time what was wrong. When no answer is taken, the first
        that a program could put right is."""
        asked = list(messages)
        repairs: list[tuple[Repairable, dict[str, Any]]] = []
        for attempt in range(1, ATTEMPTS + 1):
            text = await self.chat.complete(
                asked, schema, seed_of(self.seed, level, number, attempt), max_tokens,
                # the same question again would get the same answer, and a topic has more than one story
                temperature=0.0 if attempt == 1 and level != "topic" else 0.6, adapter=level != "topic",
            )  # fmt: skip
            note: dict[str, Any] = {"level": level, "scene": what, "number": number, "attempt": attempt}
            note |= {"prompt": asked, "answer": text, "refused": None}
            self.answers.append(note)
            try:
                return accept(text)
            except Refused as error:
                reason = note["refused"] = str(error)
                if isinstance(error, Repairable):
                    repairs.append((error, note))
                    if error.certain:
                        break
            again = f"That cannot be used: {reason}. Answer again, with JSON alone."
            asked = [*messages, {"role": "assistant", "content": text}, {"role": "user", "content": again}]
        if repairs:
            wrong, note = repairs[0]
            note |= {"refused": None, "repaired": f"{wrong}: {wrong.repair}"}
            return wrong.answer
        raise PlanningFailed(
            f"story: {what}: the planner gave no usable answer in {ATTEMPTS} attempts ({reason}); "
            "say it in plainer sentences, or write the plan by hand"
        )


def seed_of(seed: int, level: str, number: int, attempt: int) -> int:
    """Each question's own seed, of 32 bits."""
    return zlib.crc32(f"{seed} {level} {number} {attempt}".encode())


def slug(text: str) -> str:
    """The first words of a text, fit for a scene's id."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return "-".join(plain.split("-")[:4])[:40].strip("-") or "somewhere"
