"""Stories written one by one, with what a film of each shows: the planner learns from them beside the grammar's.

They lie in `told/`, a JSON object a line: {"scenes": [{"place": stage, "sentences": [{"text": str, "acts":
[[character, motion], ...], "place": stage}]}]}. A sentence without acts only describes; `place`, if it has one, is
the place that it names. Each time a story is drawn, others of the cast may play it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from engine.miniature import words
from engine.miniature.asides import OTHERS
from engine.miniature.grammar import SmallScene, SmallStory
from engine.miniature.layout import Act
from engine.miniature.sayings import PLACES

FOLDER = Path(__file__).parent / "told"
RECAST = 0.6  # of the stories drawn
# Kinds that are drawn so many times as often: whose sentences hang on those around them, and what was often got wrong.
OFTEN = {"around": 3, "weak": 3}
GIVEN = 0.3  # of these: somebody is played by a character whom the story gives by picture


def _one_of(known: Collection[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"none of {', '.join(known)}")
        return value

    return AfterValidator(check)


Stage = Annotated[str, _one_of(words.STAGES)]
Doing = tuple[Annotated[str, _one_of(words.BASE_CHARACTERS)], Annotated[str, _one_of(words.MOTIONS)]]


class ToldSentence(BaseModel):
    """One sentence and what it shows."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(min_length=3, max_length=400)]
    acts: Annotated[list[Doing], Field(max_length=4)]
    place: Stage | None = None


class ToldScene(BaseModel):
    """One shot."""

    model_config = ConfigDict(extra="forbid")

    place: Stage
    sentences: Annotated[list[ToldSentence], Field(min_length=1)]


class ToldStory(BaseModel):
    """A story that no grammar made. `kind`: what is hard about it."""

    model_config = ConfigDict(extra="forbid")

    scenes: Annotated[list[ToldScene], Field(min_length=1)]
    kind: str = "all"


@cache
def told_stories() -> tuple[ToldStory, ...]:
    """All that lie in the folder, file by file."""
    lines = [line for file in sorted(FOLDER.glob("*.jsonl")) for line in file.read_text("utf-8").splitlines()]
    return tuple(ToldStory.model_validate_json(line) for line in lines)


@cache
def _scenes_until() -> tuple[int, ...]:
    """How many scenes the stories have, up to each, those of some kinds counted several times."""
    return tuple(accumulate(len(story.scenes) * OFTEN.get(story.kind, 1) for story in told_stories()))


def told_story(rng: random.Random) -> SmallStory:
    """One of them, long ones and those of some kinds more often, perhaps with others in its parts."""
    story = rng.choices(told_stories(), cum_weights=_scenes_until())[0]
    parts = _parts(story, rng) if rng.random() < RECAST else {}
    scenes = [_small(scene, parts) for scene in story.scenes]
    return SmallStory(scenes, [name for name in parts.values() if name not in words.BASE_CHARACTERS])


def _parts(story: ToldStory, rng: random.Random) -> dict[str, str]:
    """Who plays whom; nobody another when the story has several of a kind ("two foxes")."""
    text = " ".join(sentence.text for scene in story.scenes for sentence in scene.sentences)
    named = [name for name in words.BASE_CHARACTERS if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
    if any(re.search(rf"\b{name}(s|es)\b", text, re.IGNORECASE) for name in words.BASE_CHARACTERS):
        return {}
    players = rng.sample(list(words.BASE_CHARACTERS), len(named))
    if rng.random() < GIVEN:
        players[rng.randrange(len(players))] = rng.choice([o for o in OTHERS if not re.search(rf"\b{o}", text, re.I)])
    return dict(zip(named, players, strict=True))


def recast(text: str, parts: dict[str, str]) -> str:
    """The text with others in its parts, their articles put right."""
    if not parts:
        return text

    def play(match: re.Match[str]) -> str:
        before, name = match[1] or "", match[2]
        player = parts[name.lower()]
        if before:
            before = f"{before[0]}{'n' if player[0] in 'aeiou' else ''} "
        return before + (player if name.islower() else player.upper() if name.isupper() else player.capitalize())

    return re.sub(rf"\b(an? )?({'|'.join(parts)})\b", play, text, flags=re.IGNORECASE)


def _small(told: ToldScene, parts: dict[str, str]) -> SmallScene:
    """The scene as the grammar would have made it."""
    texts = [recast(sentence.text, parts) for sentence in told.sentences]
    acting = [n for n, sentence in enumerate(told.sentences) if sentence.acts]
    first, last = acting[0], acting[-1] + 1
    home = next((sentence.place for sentence in told.sentences[:first] if sentence.place), None)
    if home is None and _names(told.place, " ".join(texts[:first])):
        home = told.place
    unsure = first > 0 and home is None
    scene = SmallScene(told.place, home, unsure, texts[:first], texts[first:last], texts[last:])
    said = [(n - first, *doing) for n in acting for doing in told.sentences[n].acts]
    doings = [doing for k, doing in enumerate(said) if doing[1:] not in [other[1:] for other in said[:k]]]
    often, turn = Counter(who for _, who, _ in doings), Counter[str]()
    for n, who, motion in doings:
        frames = (1, 6) if often[who] == 1 else ((1, 3), (4, 6))[turn[who]]
        turn[who] += 1
        scene.acts.append(Act(parts.get(who, who), motion, frames, told=n))
    first_named = [act.name for act in scene.acts]
    scene.acts.sort(key=lambda act: first_named.index(act.name))  # regions come character by character
    return scene


def _names(stage: str, text: str) -> bool:
    """Whether the text has a word for the stage."""
    nouns = {noun.split()[-1] for _, nouns in PLACES[stage] for noun in nouns if noun} | {stage}
    return bool(re.search(rf"\b({'|'.join(sorted(nouns))})\b", text, re.IGNORECASE))
