"""Scenes whose truth is known, to measure a video model on: each as a plan, and as the clip that it truly is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.miniature import words
from engine.miniature.motions import FRAMES, Lane, make_track
from engine.miniature.stages import WIDTH
from engine.miniature.world import FRAMES_PER_KEYFRAME, SIZE, SMALL_SIZE, Actor, Clip, make_clip, random_clip
from engine.plan import KEYFRAMES, Box, Region, Scene

ROOM = 0.04  # of the picture, by which a box is larger than its actor on every side: plans are not exact
KINDS = ("one", "two", "three", "crossing", "near", "changing")
NEAR: Sequence[Lane] = (
    (0.0, 0.58 * WIDTH),
    (0.42 * WIDTH, float(WIDTH)),
)  # two actors whose boxes may overlap a little


class Trial(NamedTuple):
    """`scene` has a region for each act of each actor of `clip`, which is None when nobody knows how it looks."""

    kind: str
    scene: Scene
    clip: Clip | None


def known_trials(count: int, seed: int) -> list[Trial]:
    """Scenes of base characters and base motions, of the KINDS in turn. The same arguments give the same trials."""
    return [
        _trial(_known_clip(KINDS[n % len(KINDS)], np.random.default_rng((seed, 1, n))), KINDS[n % len(KINDS)], n)
        for n in range(count)
    ]


def motion_trials(count: int, seed: int) -> list[Trial]:
    """One base character doing a motion of the library alone, in one constant box that holds its whole track: so the
    box does not tell the path."""
    trials = []
    for n in range(count):
        motion = words.LIBRARY_MOTIONS[n % len(words.LIBRARY_MOTIONS)]
        clip = random_clip(np.random.default_rng((seed, 2, n)), motions=(motion,), actors=1, changes=0)
        trials.append(_trial(clip, "motion", n, whole=True))
    return trials


def subject_trials(count: int, seed: int, phrases: dict[str, str]) -> list[Trial]:
    """One character that the base model has never seen, in a base motion. `phrases`: its name -> what captions call
    it, such as "[v1] ghost"."""
    trials = []
    for n in range(count):
        name = list(phrases)[n % len(phrases)]
        clip = random_clip(np.random.default_rng((seed, 3, n)), (name,), actors=1, changes=0)
        trials.append(_trial(clip, "subject", n, phrases=phrases))
    return trials


def without_regions(scene: Scene, phrases: dict[str, str]) -> Scene:
    """The same scene for the plain pipeline: one caption that names everyone and where, heard by the whole picture.

    The regions stay, each with the whole picture as its box, so that LoRAs still bind by entity and motion.
    """
    told: dict[str, list[Region]] = {}
    for region in scene.regions:
        told.setdefault(region.entity, []).append(region)
    parts = {}
    for entity, acts in told.items():
        middle = float(np.mean([(box.left + box.right) / 2 for act in acts for box in act.boxes.values()]))
        spot = words.POSITIONS[min(int(middle * 3), 2)]
        does = " then ".join(act.motion for act in acts)
        parts[middle, entity] = f"{words.article(phrases.get(entity, entity))} {spot} {does}"
    places = dict(pair[::-1] for pair in words.STAGES.values())
    caption = f"{' and '.join(parts[key] for key in sorted(parts))} {places.get(scene.background, scene.background)}"
    everywhere = dict.fromkeys(range(1, KEYFRAMES + 1), Box(0, 0, 1, 1))
    regions = tuple(r.model_copy(update={"caption": caption, "boxes": everywhere}) for r in scene.regions)
    return scene.model_copy(update={"regions": regions})


def _known_clip(kind: str, rng: np.random.Generator) -> Clip:
    names = [str(name) for name in rng.choice(list(words.BASE_CHARACTERS), 3, replace=False)]
    stage = str(rng.choice(list(words.STAGES)))
    if kind == "crossing":  # each walks to where the other came from
        whole = (0.0, float(WIDTH))
        return _cast(rng, stage, [(names[0], "walks right", whole), (names[1], "walks left", whole)])
    if kind == "near":
        calm = [str(motion) for motion in rng.choice(["stands still", "dances", "jumps up and down"], 2)]
        return _cast(rng, stage, list(zip(names, calm, NEAR, strict=False)))
    if kind == "changing":
        while True:  # now and then an actor has no room for a second motion
            clip = random_clip(rng, actors=int(rng.integers(1, 3)), changes=1.0)
            if any(len(actor.acts) > 1 for actor in clip.actors):
                return clip
    return random_clip(rng, actors={"one": 1, "two": 2, "three": 3}[kind], changes=0)


def _cast(rng: np.random.Generator, stage: str, cast: list[tuple[str, str, Lane]]) -> Clip:
    size = SIZE if len(cast) < 3 else SMALL_SIZE
    return make_clip(
        stage, [(name, size, [(motion, 0, FRAMES)], make_track(motion, rng, size, lane)) for name, motion, lane in cast]
    )


def _trial(clip: Clip, kind: str, number: int, whole: bool = False, phrases: dict[str, str] | None = None) -> Trial:
    place, empty = words.STAGES[clip.stage]
    regions = []
    for actor in clip.actors:
        phrase = (phrases or {}).get(actor.name, actor.name)
        for motion, first, end in actor.acts:
            boxes = _boxes(actor, first, end, whole)
            caption = f"{words.article(phrase)} {motion} {place}"
            regions.append(Region(entity=actor.name, motion=motion, caption=caption, boxes=boxes))
    return Trial(kind, Scene(id=f"{kind}-{number:03d}", background=empty, regions=tuple(regions)), clip)


def _boxes(actor: Actor, first: int, end: int, whole: bool) -> dict[int, Box]:
    """A box for each keyframe in which the act is seen."""
    held = {}
    for keyframe in range(first // FRAMES_PER_KEYFRAME, end // FRAMES_PER_KEYFRAME):
        span = slice(keyframe * FRAMES_PER_KEYFRAME, (keyframe + 1) * FRAMES_PER_KEYFRAME)
        b = actor.boxes[slice(first, end) if whole else span]
        edges = np.array([*b[:, :2].min(0), *b[:, 2:].max(0)]) + np.array([-ROOM, -ROOM, ROOM, ROOM])
        held[keyframe + 1] = Box(*(round(float(edge), 3) for edge in edges.clip(0, 1)))
    return held
