"""How well a planner understands stories whose plan is known.

    python -m benchmarks.planner [--sentences FILE] [--model miniature] [--pace 20] [--limit N]

FILE holds a JSON object a line: {"story": str, "scenes": [{"characters": [..], "motions": {character: motion},
"place": str}]}; somebody who does one thing and then another has a list of motions, and "kind" may name what is hard
about it. By default it is planner-sentences.jsonl, written by hand: none was made by the grammar or ever trained on.

All are planned at once. The k-th scene of a plan is held against the k-th that was written down; what is in no
counterpart is missed, or one too many. Characters: F1 over all scenes together. Motions: right when a character does
what is written, in that order, and nothing else. `valid_first_try` and `repaired` are shares of the stories: those
whose every first answer was taken, and those of which a program put an answer right. Then the first `--pace` stories
are planned one by one, and the same once more together. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.progress import Progress

from engine.chat import ChatModel
from engine.errors import InputError
from engine.models import Bundle, load_bundle
from engine.plan import NONE, Scene
from engine.planner import Planning, plan_story
from engine.story import Story

SENTENCES = Path(__file__).parent / "planner-sentences.jsonl"


class TrueScene(BaseModel):
    """What a reader sees in one scene."""

    model_config = ConfigDict(extra="forbid")

    characters: list[str]
    motions: dict[str, str | list[str]]
    place: str


class Told(BaseModel):
    """A story and its scenes, as a reader sees them."""

    model_config = ConfigDict(extra="forbid")

    story: Annotated[str, Field(min_length=1)]
    scenes: list[TrueScene]
    kind: str = "all"


def read_told(file: Path) -> list[Told]:
    """Raises InputError with file, line and field."""
    told = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--sentences {file}: {getattr(error, 'strerror', None) or error}") from None
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told.append(Told.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"{file}: line {n}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not told:
        raise InputError(f"--sentences {file}: it holds no story")
    return told


@dataclass
class Score:
    """Characters found, missed and one too many; motions and places right, out of all; what was wrong."""

    found: int = 0
    missed: int = 0
    extra: int = 0
    motions: Counter = field(default_factory=Counter)
    places: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, told: Told, scenes: Sequence[Scene]) -> None:
        for n, (truth, scene) in enumerate(zip_longest(told.scenes, scenes), 1):
            done: dict[str, list[str]] = defaultdict(list)
            for region in sorted(scene.regions, key=lambda r: min(r.boxes)) if scene else ():
                if region.entity != NONE:
                    done[region.entity].append(region.motion)
            cast = set(truth.characters) if truth else set()
            self.found += len(cast & done.keys())
            self.missed += len(cast - done.keys())
            self.extra += len(done.keys() - cast)
            fine = cast == done.keys()
            for who, what in truth.motions.items() if truth else ():
                right = done.get(who) == ([what] if isinstance(what, str) else what)
                self.motions[right] += 1
                fine &= right
            if truth:
                right = scene is not None and truth.place in scene.background.lower().split()
                self.places[right] += 1
                fine &= right
            if not fine:
                was = f"{scene.background}: {dict(done)} ({scene.narration})" if scene else "no scene"
                self.wrong.append(f"scene {n}: {truth.place + ': ' + str(truth.motions) if truth else 'none'} -> {was}")

    def result(self) -> dict[str, float]:
        all_ = 2 * self.found + self.missed + self.extra
        return {
            "characters_f1": round(2 * self.found / all_, 4) if all_ else 1.0,
            "motion_accuracy": _share(self.motions), "place_accuracy": _share(self.places),
        }  # fmt: skip


def _share(counted: Counter) -> float:
    return round(counted[True] / counted.total(), 4) if counted else 1.0


async def _plan(told: Told, bundle: Bundle, chat: ChatModel) -> Planning | InputError:
    try:
        return await plan_story(Story(text=told.story), bundle, chat, 0, lambda done, total: None)
    except InputError as error:
        return error


async def evaluate(stories: list[Told], bundle: Bundle, chat: ChatModel) -> tuple[dict[str, float], list[str]]:
    """All stories at once: the figures, and lines about what was wrong."""
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("planning", total=len(stories))

        async def plan(told: Told) -> Planning | InputError:
            planning = await _plan(told, bundle, chat)
            progress.advance(bar)
            return planning

        made = await asyncio.gather(*map(plan, stories))
    score, first_try, repaired, lines = Score(), 0, 0, []
    kinds: dict[str, Score] = defaultdict(Score)
    for told, planning in zip(stories, made, strict=True):
        scenes = planning.plan.scenes if isinstance(planning, Planning) else ()
        score.add(told, scenes)
        kinds[told.kind].add(told, scenes)
        if isinstance(planning, InputError):
            lines.append(f"no plan: {planning}")
            continue
        first_try += all(note["refused"] is None and "repaired" not in note for note in planning.answers)
        repaired += any("repaired" in note for note in planning.answers)
        for note in planning.answers:
            if note["refused"] or "repaired" in note:
                lines.append(f"{note['scene']}: refused {note['refused']}, repaired {note.get('repaired')}")
    for kind, its in kinds.items():
        lines += [f"{kind}: {line}" for line in its.wrong]
    lines += [f"{kind}: {its.result()}" for kind, its in kinds.items()]
    shares = {"valid_first_try": round(first_try / len(stories), 4), "repaired": round(repaired / len(stories), 4)}
    return {"sentences": len(stories), **score.result(), **shares}, lines


async def pace(stories: list[Told], bundle: Bundle, chat: ChatModel) -> dict[str, float] | None:
    """Stories a minute, one after another and all at once."""
    if not stories:
        return None
    began = time.perf_counter()
    for told in stories:
        await _plan(told, bundle, chat)
    between = time.perf_counter()
    await asyncio.gather(*(_plan(told, bundle, chat) for told in stories))
    ended = time.perf_counter()
    per_minute = [round(60 * len(stories) / seconds, 2) for seconds in (between - began, ended - between)]
    return {"one_by_one": per_minute[0], "together": per_minute[1]}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=Path, default=SENTENCES, metavar="FILE", help="stories with their scenes")
    parser.add_argument("--model", default="miniature", help="a bundle with a planner")
    parser.add_argument("--pace", type=int, default=20, help="so many stories are timed; 0: none")
    parser.add_argument("--limit", type=int, help="so many stories at most")
    options = parser.parse_args()
    stories, bundle = read_told(options.sentences)[: options.limit], load_bundle(options.model)
    from engine.chat import VllmChat

    chat = VllmChat(bundle)
    try:
        result, lines = await evaluate(stories, bundle, chat)
        result["stories_per_minute"] = await pace(stories[: options.pace], bundle, chat)
    finally:
        chat.close()
    print("\n".join(lines))
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main())
