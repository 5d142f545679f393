"""The miniature's judge: measures a film in pixels, against its plan, independent of every trained model.

It finds each character by its sprite (`matching.find`), recognises the stage, names each motion by the law that fits
the character's track best, and says whether each region holds its own character and no other. Its figures on true
clips and on blurred ones are asserted in tests/engine/test_judge.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from pydantic import BaseModel, computed_field
from rich.table import Table

from engine.errors import InputError
from engine.miniature.matching import CAST, Detection, find, stage_of
from engine.miniature.motions import FRAMES
from engine.miniature.stages import HEIGHT, WIDTH
from engine.miniature.words import MOTIONS, STAGES
from engine.miniature.world import FRAMES_PER_KEYFRAME
from engine.plan import NONE, Box, Plan, Region, Scene

PIXELS_INSIDE = 0.8  # share of a character's found pixels that must lie in its region

# ---------------------------------------------------------------------------------------------------------- motions

TOLERANCE = np.array([1.5, 1.5, 8.0, 0.06])  # of x and y in pixels, angle in degrees, log of size: one unit of misfit
WORST = 9.0  # squared misfit of one measurement at most, so that a wrong find in one frame decides nothing
# squared misfit per frame, of all four measurements together, above which a track follows no law: 2.6 pixels, 14
# degrees and a tenth of the size, all at once. Half of it names only 0.83 of the motions that came through the VAE.
UNCLEAR = 12.0
Shape = tuple[np.ndarray | float, float, float]  # what a law adds over time, times a factor between two limits
FIXED: Shape = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class _Law:
    """How a motion moves an actor: x, y in pixels, angle in degrees, log of size, each a constant plus a shape."""

    motion: str
    x: Shape = FIXED
    y: Shape = FIXED
    angle: Shape = FIXED
    size: Shape = FIXED


@cache
def _laws(frames: int) -> tuple[_Law, ...]:
    """The laws of motions.py over `frames`, with the factors that its lanes and sizes allow, and some room."""
    t = np.linspace(0, 1, frames)
    triangle = 2 * np.abs(2 * ((2 * t + 0.25) % 1) - 1) - 1
    sway = np.sin(4 * np.pi * t)
    arc = 1 - (2 * t - 1) ** 2
    bob = (-np.abs(sway), 0.0, 3.0)
    laws = [
        _Law("stands still"),
        _Law("walks left", (-t, 4, WIDTH), bob),
        _Law("walks right", (t, 4, WIDTH), bob),
        _Law("jumps up and down", y=(-np.abs(np.sin(2 * np.pi * t)), 7, 40)),
        _Law("flies up", (t, -6, 6), (-t, 7, HEIGHT)),
        _Law("falls down", (t, -6, 6), (t**1.5, 7, HEIGHT)),
        _Law("grows bigger", y=(-t, 0, 25), size=(np.log(0.5 + 0.8 * t), 0.4, 1.5)),
        _Law("shrinks", y=(t, 0, 25), size=(np.log(1.3 - 0.8 * t), 0.4, 1.5)),
    ]
    for way in (-t, t):
        laws += [
            _Law("dances", (np.sign(way[-1]) * sway, 0, 6), angle=(np.sign(way[-1]) * sway, 9, 40)),
            _Law("zigzags across", (way, 6, WIDTH), (triangle, 6, 20)),
            _Law("bounces across", (way, 6, WIDTH), (-np.abs(np.sin(3 * np.pi * t)), 8, 32)),
            _Law("swoops down", (way, 6, WIDTH), (arc, 8, 45)),
            *(_Law("spins around", angle=(540 * way, rate, rate)) for rate in (0.7, 0.85, 1, 1.15, 1.3)),
        ]
    for phase in np.arange(0, 2 * np.pi, np.pi / 8):
        turn = 2 * np.pi * t + phase
        laws.append(_Law("runs in circles", (np.cos(turn), 5, 20), (np.sin(turn), 5, 14)))
    return tuple(laws)


def _misfit(values: np.ndarray, seen: np.ndarray, shape: Shape, tolerance: float, circular: bool) -> np.ndarray:
    """Squared misfit (frames,) of one measurement to the best constant + factor * shape. Angles are `circular`, in
    degrees, and their constant is 0: actors start upright."""
    form = np.broadcast_to(shape[0], values.shape)
    weight = seen.astype(float)
    for _ in range(3):  # fitted again without what was far off
        mean = weight / weight.sum()
        centred = form if circular else form - mean @ form
        spread = mean @ centred**2
        factor = np.clip(mean @ (centred * values) / spread if spread else 0.0, *shape[1:])
        rest = values - factor * form
        rest = (rest + 180) % 360 - 180 if circular else rest - mean @ rest
        misfit = (rest / tolerance) ** 2
        weight = seen / (1 + misfit / 4)
    return np.minimum(misfit, WORST) * seen


def motion_of(track: Sequence[Detection | None]) -> str | None:
    """The one of words.MOTIONS whose law fits a character's track best, one detection a frame; None when it is seen in
    fewer than half of the frames or follows no law."""
    seen = np.array([d is not None for d in track])
    if seen.sum() < max(len(track) / 2, 4):
        return None
    rows = np.array([(d.x, d.y, d.angle, np.log(d.size)) if d else (0.0,) * 4 for d in track]).T

    def misfit(law: _Law) -> float:
        shapes = zip(rows, (law.x, law.y, law.angle, law.size), TOLERANCE, strict=True)
        return sum(_misfit(row, seen, shape, unit, n == 2).sum() for n, (row, shape, unit) in enumerate(shapes))

    best = min(_laws(len(track)), key=misfit)
    return best.motion if misfit(best) < UNCLEAR * seen.sum() else None


# ---------------------------------------------------------------------------------------------------------- reports


class KeyframeReport(BaseModel):
    """A character in its box of one keyframe, on average over the frames of it in which it is found (in fewer than half
    of them: not at all). `share` of its found pixels lie in the box; `others` are the characters whose centre is in the
    box in at least half of the frames."""

    keyframe: int
    found: int
    centre_inside: bool
    share: float
    others: list[str]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bound(self) -> bool:
        """The right character has its centre and its pixels in its region, and no other's centre is there."""
        return self.centre_inside and self.share >= PIXELS_INSIDE and not self.others


class CharacterReport(BaseModel):
    """One region of a scene. `centre` is the mean of its places as shares of the picture's width and height; `motion`
    is what the plan says, if it names one of the world's, and `motion_seen` what the track says, if that is clear;
    `likeness` is the mean score of its finds (see Detection); `smoothness` 1 less the mean jump in its speed from one
    frame to the next, as a share of its size."""

    entity: str
    character: str
    frames: int
    found: int
    centre: tuple[float, float] | None
    motion: str | None
    motion_seen: str | None
    likeness: float | None
    smoothness: float | None
    keyframes: list[KeyframeReport]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def place(self) -> str | None:
        """Which third of the picture it is in, most of the time."""
        return None if self.centre is None else ("left", "middle", "right")[min(int(self.centre[0] * 3), 2)]


class SceneReport(BaseModel):
    """`stage` is the one the plan asks for, if it names one; `stage_distance` the median colour difference (0..1) to
    the nearest painted stage, `stage_seen`. `strangers` are characters in at least a quarter of the frames that no
    region names, `unknown` the entities that are not in the cast, which the judge cannot see."""

    id: str
    stage: str | None
    stage_seen: str
    stage_distance: float
    characters: list[CharacterReport]
    strangers: list[str]
    unknown: list[str]


class FilmReport(BaseModel):
    """Shares in 0..1 over all scenes, None when there is nothing to measure."""

    scenes: list[SceneReport]

    @property
    def characters(self) -> list[CharacterReport]:
        return [character for scene in self.scenes for character in scene.characters]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def stages(self) -> float | None:
        """Scenes on the right stage."""
        return _mean(scene.stage == scene.stage_seen for scene in self.scenes if scene.stage)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def found(self) -> float | None:
        """(character, frame) pairs in which the character is found."""
        frames = sum(c.frames for c in self.characters)
        return sum(c.found for c in self.characters) / frames if frames else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def region_binding(self) -> float | None:
        """(character, keyframe) pairs that are bound."""
        return _mean(keyframe.bound for c in self.characters for keyframe in c.keyframes)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def motion(self) -> float | None:
        """Characters that do what the plan says."""
        return _mean(c.motion == c.motion_seen for c in self.characters if c.motion)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def likeness(self) -> float | None:
        """Mean over the characters that are found at all."""
        return _mean(c.likeness for c in self.characters if c.likeness is not None)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def smoothness(self) -> float | None:
        """Mean over the characters that are found in three frames in a row."""
        return _mean(c.smoothness for c in self.characters if c.smoothness is not None)


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None


def _first_named(text: str, names: Iterable[str]) -> str | None:
    """The name that stands first in the text, as whole words."""
    found = [(match.start(), name) for name in names if (match := re.search(rf"\b{re.escape(name)}\b", text.lower()))]
    return min(found)[1] if found else None


def _stage_named(background: str) -> str | None:
    phrases = {phrase: stage for stage, (place, empty) in STAGES.items() for phrase in (place, empty)}
    phrase = _first_named(background, phrases)
    return phrases[phrase] if phrase else _first_named(background, STAGES)


def _character_named(region: Region) -> str | None:
    return _first_named(region.caption if region.entity == NONE else region.entity, CAST)


def _inside(box: Box, x: float, y: float) -> bool:
    return box.left <= x <= box.right and box.top <= y <= box.bottom


def _share_inside(box: Box, mask: np.ndarray) -> float:
    """Share of the mask's pixels whose middle is in the box."""
    rows, columns = np.nonzero(mask)
    x, y = (columns + 0.5) / WIDTH, (rows + 0.5) / HEIGHT
    inside = (box.left <= x) & (x <= box.right) & (box.top <= y) & (y <= box.bottom)
    return float(inside.mean()) if len(inside) else 0.0


def _judge_keyframe(keyframe: int, box: Box, name: str, seen: list[dict[str, Detection | None]]) -> KeyframeReport:
    own = [d for frame in seen if (d := frame[name])]
    counts = {
        other: sum(_inside(box, d.x / WIDTH, d.y / HEIGHT) for frame in seen if (d := frame[other]))
        for other in CAST
        if other != name
    }
    found = len(own) * 2 >= len(seen)
    return KeyframeReport(
        keyframe=keyframe,
        found=len(own),
        centre_inside=found and _inside(box, *(np.mean([(d.x, d.y) for d in own], 0) / (WIDTH, HEIGHT))),
        share=float(np.mean([_share_inside(box, d.mask) for d in own])) if found else 0.0,
        others=[other for other, count in counts.items() if count * 2 >= len(seen)],
    )


def _judge_region(region: Region, name: str, seen: list[dict[str, Detection | None]]) -> CharacterReport:
    spans = {k: slice((k - 1) * FRAMES_PER_KEYFRAME, k * FRAMES_PER_KEYFRAME) for k in region.boxes}
    track = [frame[name] for k in spans for frame in seen[spans[k]]]
    own = [d for d in track if d]
    x, y = _mean(d.x / WIDTH for d in own), _mean(d.y / HEIGHT for d in own)
    return CharacterReport(
        entity=region.entity,
        character=name,
        frames=len(track),
        found=len(own),
        centre=None if x is None or y is None else (x, y),
        motion=_first_named(region.caption if region.motion == NONE else region.motion, MOTIONS),
        motion_seen=motion_of(track),
        likeness=_mean(d.score for d in own),
        smoothness=_smoothness(track),
        keyframes=[_judge_keyframe(k, region.boxes[k], name, seen[spans[k]]) for k in spans],
    )


def _smoothness(track: Sequence[Detection | None]) -> float | None:
    jumps = [
        min(float(np.hypot(a.x - 2 * b.x + c.x, a.y - 2 * b.y + c.y)) / b.size, 1.0)
        for a, b, c in zip(track, track[1:], track[2:], strict=False)
        if a and b and c
    ]
    return 1 - sum(jumps) / len(jumps) if jumps else None


def judge_scene(frames: np.ndarray, scene: Scene) -> SceneReport:
    """Measures one scene: uint8 (FRAMES, HEIGHT, WIDTH, 3)."""
    if len(frames) != FRAMES:
        raise InputError(f"scene {scene.id}: {len(frames)} frames; a scene of the miniature has {FRAMES}")
    stage, distance = stage_of(frames)
    seen = find(frames, stage=stage)
    named = [(region, _character_named(region)) for region in scene.regions]
    in_plan = {name for _, name in named}
    return SceneReport(
        id=scene.id,
        stage=_stage_named(scene.background),
        stage_seen=stage,
        stage_distance=distance[stage],
        characters=[_judge_region(region, name, seen) for region, name in named if name],
        strangers=[n for n in CAST if n not in in_plan and sum(frame[n] is not None for frame in seen) * 4 >= FRAMES],
        unknown=[region.entity for region, name in named if not name],
    )


def to_world_size(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 (T, H, W, 3), enlarged by a whole factor or not, at the world's own size. Raises InputError."""
    height, width = frames.shape[1:3]
    factor = height // HEIGHT
    if not factor or (height, width) != (factor * HEIGHT, factor * WIDTH):
        raise InputError(
            f"the film is {width}x{height}; the judge reads {WIDTH}x{HEIGHT} or a whole multiple of both, such as "
            f"{4 * WIDTH}x{4 * HEIGHT}"
        )
    if factor > 1:
        blocks = frames.reshape(len(frames), HEIGHT, factor, WIDTH, factor, 3)
        frames = blocks.mean((2, 4), dtype=np.float32).round().astype(np.uint8)
    return frames


def judge_film(frames: np.ndarray, plan: Plan) -> FilmReport:
    """Measures a film, uint8 (T, H, W, 3), enlarged by a whole factor or not, against the plan it was made from. Raises
    InputError when it cannot be that plan's film."""
    wanted = FRAMES * len(plan.scenes)
    if len(frames) != wanted:
        raise InputError(
            f"the film has {len(frames)} frames, but the plan's {len(plan.scenes)} scenes of {FRAMES} make {wanted}: "
            "judge a film with the plan it was made from"
        )
    frames = to_world_size(frames)
    scenes = zip(np.split(frames, len(plan.scenes)), plan.scenes, strict=True)
    return FilmReport(scenes=[judge_scene(part, scene) for part, scene in scenes])


def table(report: FilmReport) -> Table:
    """The report for people: a line for each scene and character, and the film's scores below."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.0%}"

    def verdict(seen: str | None, wanted: str | None) -> str:
        if wanted is None or seen == wanted:
            return seen or "-"
        return f"[red]{seen or 'unclear'}[/red], not {wanted}"

    scores = {"stages": report.stages, "found": report.found, "region binding": report.region_binding}
    scores |= {"motion": report.motion, "likeness": report.likeness, "smoothness": report.smoothness}
    result = Table(caption="   ".join(f"{name} {share(value)}" for name, value in scores.items()))
    for column in ("Scene", "Stage", "Character", "Found", "Where", "Motion", "Likeness", "In region"):
        result.add_column(column)
    for scene in report.scenes:
        lead = [scene.id, verdict(scene.stage_seen, scene.stage)]
        for c in scene.characters:
            where = f"{c.place} ({c.centre[0]:.2f}, {c.centre[1]:.2f})" if c.centre else "-"
            inside = f"{sum(k.bound for k in c.keyframes)}/{len(c.keyframes)}"
            found = f"{c.found}/{c.frames}"
            result.add_row(*lead, c.entity, found, where, verdict(c.motion_seen, c.motion), share(c.likeness), inside)
            lead = ["", ""]
        others = [f"[red]{name}[/red] (not in the plan)" for name in scene.strangers]
        for entity in [*others, *(f"{entity} (not in the cast)" for entity in scene.unknown)]:
            result.add_row(*lead, entity)
            lead = ["", ""]
        if lead[0]:
            result.add_row(*lead, "nobody")
    return result
