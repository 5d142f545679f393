"""A film against what a reader of its story expects, written by hand: who is on which stage, where, and does what.

Unlike `judge_film` it does not know the plan, so it measures the planner together with everything after it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, computed_field
from rich.table import Table

from engine.errors import InputError
from engine.miniature.judge import FRAMES, motion_of, to_world_size
from engine.miniature.matching import find, stage_of
from engine.miniature.stages import WIDTH
from engine.miniature.words import CHARACTERS, MOTIONS, STAGES


def _known(names):
    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"{value!r} is not in this world; use one of {', '.join(names)}")
        return value

    return AfterValidator(check)


class TrueActor(BaseModel):
    """What a character does, and in which third of the picture it is, if the story says so."""

    model_config = ConfigDict(extra="forbid")

    motion: Annotated[str, _known(MOTIONS)]
    place: Literal["left", "middle", "right"] | None = None


class TrueScene(BaseModel):
    model_config = ConfigDict(extra="forbid")

    stage: Annotated[str, _known(STAGES)]
    characters: dict[Annotated[str, _known(CHARACTERS)], TrueActor] = {}


class Truth(BaseModel):
    model_config = ConfigDict(extra="forbid")

    scenes: Annotated[list[TrueScene], Field(min_length=1)]


class ActorScore(BaseModel):
    """One expected character: the share of frames in which it is found, its mean likeness, and what it was seen to do
    and where. `place_right` is None when no place is expected."""

    character: str
    found: float
    likeness: float | None
    motion: str
    motion_seen: str | None
    place_right: bool | None

    @property
    def present(self) -> bool:
        return self.found >= 0.5

    @property
    def claims(self) -> list[bool]:
        place = [] if self.place_right is None else [self.place_right]
        return [self.present, self.motion == self.motion_seen, *place]


class SceneScore(BaseModel):
    stage: str
    stage_seen: str | None
    actors: list[ActorScore]
    strangers: list[str]

    @property
    def claims(self) -> list[bool]:
        return [self.stage == self.stage_seen, *(claim for actor in self.actors for claim in actor.claims)]


class TruthScore(BaseModel):
    """`score` is the share of all claims (stage; each character there, doing it, at its place) that hold."""

    scenes: list[SceneScore]
    scenes_in_film: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def score(self) -> float:
        claims = [claim for scene in self.scenes for claim in scene.claims]
        return sum(claims) / len(claims)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def stages(self) -> float:
        return sum(s.stage == s.stage_seen for s in self.scenes) / len(self.scenes)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def found(self) -> float | None:
        actors = [actor for scene in self.scenes for actor in scene.actors]
        return sum(a.present for a in actors) / len(actors) if actors else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def motions(self) -> float | None:
        actors = [actor for scene in self.scenes for actor in scene.actors]
        return sum(a.motion == a.motion_seen for a in actors) / len(actors) if actors else None


def load_truth(file: Path) -> Truth:
    """Reads a truth.yaml. Raises InputError with the field and what it may be."""
    try:
        return Truth.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"--truth {file}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise InputError(f"--truth {file}: not valid YAML: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--truth {file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def score_film(frames: np.ndarray, truth: Truth) -> TruthScore:
    """Measures a film, uint8 (T, H, W, 3). Its k-th scene is held against the truth's k-th; a scene that the film lacks
    has nobody on no stage. Raises InputError when the film is not of this world's size."""
    frames = to_world_size(frames)
    if len(frames) % FRAMES:
        raise InputError(f"the film has {len(frames)} frames; films of the miniature have {FRAMES} a scene")
    clips = np.split(frames, len(frames) // FRAMES)
    scenes = [_score(clips[n] if n < len(clips) else None, scene) for n, scene in enumerate(truth.scenes)]
    return TruthScore(scenes=scenes, scenes_in_film=len(clips))


def _score(frames: np.ndarray | None, truth: TrueScene) -> SceneScore:
    stage = None if frames is None else stage_of(frames)[0]
    seen = [] if frames is None else find(frames, stage=stage)
    actors = []
    for name, wanted in truth.characters.items():
        track = [frame[name] for frame in seen]
        there = [d for d in track if d]
        third = min(int(np.mean([d.x for d in there]) * 3 / WIDTH), 2) if there else None
        place = ("left", "middle", "right")[third] if third is not None else None
        actors.append(
            ActorScore(
                character=name,
                found=len(there) / FRAMES,
                likeness=float(np.mean([d.score for d in there])) if there else None,
                motion=wanted.motion,
                motion_seen=motion_of(track) if there else None,
                place_right=None if wanted.place is None else place == wanted.place,
            )
        )
    others = [n for n in CHARACTERS if n not in truth.characters and sum(bool(f[n]) for f in seen) * 4 >= FRAMES]
    return SceneScore(stage=truth.stage, stage_seen=stage, actors=actors, strangers=others)


def table(score: TruthScore) -> Table:
    """The score for people."""
    caption = f"score {score.score:.0%}   stages {score.stages:.0%}"
    if score.found is not None and score.motions is not None:
        caption += f"   characters found {score.found:.0%}   motions {score.motions:.0%}"
    result = Table(caption=caption)
    for column in ("Scene", "Stage", "Character", "Found", "Likeness", "Motion"):
        result.add_column(column)
    for number, scene in enumerate(score.scenes, 1):
        lead = [str(number), _verdict(scene.stage_seen, scene.stage)]
        for actor in scene.actors:
            likeness = "-" if actor.likeness is None else f"{actor.likeness:.0%}"
            motion = _verdict(actor.motion_seen, actor.motion)
            result.add_row(*lead, actor.character, f"{actor.found:.0%}", likeness, motion)
            lead = ["", ""]
        for name in scene.strangers:
            result.add_row(*lead, f"[red]{name}[/red] (not in the story)")
            lead = ["", ""]
        if lead[0]:
            result.add_row(*lead, "nobody")
    return result


def _verdict(seen: str | None, wanted: str) -> str:
    return seen if seen == wanted else f"[red]{seen or 'unclear'}[/red], not {wanted}"
