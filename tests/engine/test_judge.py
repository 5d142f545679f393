"""The judge against true clips of the world, sharp and degraded as a VAE does it: the figures that stand behind its
reports."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from engine.errors import InputError
from engine.miniature.judge import FilmReport, judge_film, judge_scene, motion_of, table
from engine.miniature.matching import Detection, find, gaussian, stage_of
from engine.miniature.motions import FRAMES, make_track
from engine.miniature.stages import HEIGHT, WIDTH, paint
from engine.miniature.words import CHARACTERS, MOTIONS, STAGES, caption
from engine.miniature.world import FRAMES_PER_KEYFRAME, Clip, random_clip
from engine.plan import KEYFRAMES, Plan, Region, Scene

CLIPS = 12
NEAR = 4.0  # pixels between a true centre and a found one
Frames = np.ndarray
Found = list[dict[str, Detection | None]]


def degrade(frames: Frames, seed: int) -> Frames:
    """The loss of a VAE, roughly: blurred by a pixel, a little noise."""
    soft = gaussian(torch.from_numpy(frames).permute(0, 3, 1, 2).float(), 1.0).permute(0, 2, 3, 1).numpy()
    return (soft + np.random.default_rng(seed).normal(0, 6, soft.shape)).round().clip(0, 255).astype(np.uint8)


@cache
def clips() -> list[Clip]:
    return [
        random_clip(np.random.default_rng(n), tuple(CHARACTERS), MOTIONS, changes=0) for n in range(100, 100 + CLIPS)
    ]


@cache
def judged(degraded: bool) -> list[Found]:
    """Sharp clips frame by frame, since motions are measured there; of degraded ones every fourth frame."""
    if degraded:
        return [find(degrade(clip.frames[::FRAMES_PER_KEYFRAME], n)) for n, clip in enumerate(clips())]
    return [find(clip.frames) for clip in clips()]


@pytest.mark.parametrize(("degraded", "goal"), [(False, 0.98), (True, 0.95)])
def test_every_actor_is_found_at_its_place_and_nobody_else(degraded: bool, goal: float) -> None:
    right, strangers = [], 0
    step = FRAMES_PER_KEYFRAME if degraded else 1
    for clip, found in zip(clips(), judged(degraded), strict=True):
        for frame, here in zip(range(0, FRAMES, step), found, strict=True):
            cast = {actor.name: actor for actor in clip.actors}
            strangers += sum(name not in cast for name, detection in here.items() if detection)
            for name, actor in cast.items():
                x, y = actor.track.x[frame], actor.track.y[frame]
                right.append((d := here[name]) is not None and np.hypot(d.x - x, d.y - y) < NEAR)
    assert np.mean(right) >= goal
    assert strangers <= 0.02 * len(right)


def test_every_motion_is_recognised_in_the_pixels() -> None:
    pairs = [
        (actor.acts[0][0], motion_of([frame[actor.name] for frame in found]))
        for clip, found in zip(clips(), judged(False), strict=True)
        for actor in clip.actors
    ]
    assert [seen for _, seen in pairs] == [true for true, _ in pairs]


@pytest.mark.parametrize("frames", [8, 12, FRAMES])
def test_every_motion_is_recognised_in_noisy_tracks(frames: int) -> None:
    rng = np.random.default_rng(frames)
    wrong = []
    for motion in MOTIONS * 4:
        size = rng.uniform(26, 34)
        t = make_track(motion, rng, size, (0, WIDTH), frames)
        noise = rng.normal(0, 1, (4, frames)) * [[0.7], [0.7], [3], [0.02]]
        rows = np.stack([t.x, t.y, t.angle, np.log(size * t.scale)]) + noise
        nothing = np.zeros((HEIGHT, WIDTH), bool)
        track: list[Detection | None] = [
            Detection(x, y, np.exp(s), (a + 180) % 360 - 180, False, 1.0, 1.0, (0, 0, 0, 0), nothing)
            for x, y, a, s in rows.T
        ]
        track[rng.integers(frames)] = None
        if (seen := motion_of(track)) != motion:
            wrong.append((motion, seen))
    assert not wrong


def test_who_is_here_and_there_does_nothing() -> None:
    """Found at places that have nothing to do with each other, or sweeping through half a picture at random."""
    rng, nothing = np.random.default_rng(3), np.zeros((HEIGHT, WIDTH), bool)
    named = []
    for _ in range(40):
        steps = np.array([WIDTH / 2, HEIGHT / 2]) + rng.normal(0, 12, (FRAMES, 2)).cumsum(0)
        jumps = rng.uniform((0, 0), (WIDTH, HEIGHT), (FRAMES, 2))
        for places in (steps, jumps):
            track = [Detection(x, y, 30.0, 0.0, False, 1.0, 1.0, (0, 0, 0, 0), nothing) for x, y in places]
            named.append(motion_of(track))
    assert sum(motion is not None for motion in named) <= 0.05 * len(named)


@pytest.mark.parametrize("stage", STAGES)
def test_an_empty_stage_is_known_and_nobody_is_found_on_it(stage: str) -> None:
    frames = degrade(np.repeat(paint(stage)[None], 2, 0), 0)
    assert stage_of(frames)[0] == stage
    assert not any(detection for frame in find(frames) for detection in frame.values())


def test_nobody_is_found_in_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), np.uint8)
    assert not any(detection for frame in find(noise) for detection in frame.values())


def test_an_actor_that_is_seldom_seen_does_nothing() -> None:
    assert motion_of([None] * FRAMES) is None


def scene_of(clip: Clip, name: str = "shot") -> Scene:
    """The plan that the clip fulfils, with two pixels of room around each box."""
    regions, room = [], np.array([2 / WIDTH, 2 / HEIGHT])
    for actor in clip.actors:
        boxes = {}
        for n in range(KEYFRAMES):
            box = actor.boxes[n * FRAMES_PER_KEYFRAME : (n + 1) * FRAMES_PER_KEYFRAME]
            edges = np.concatenate([box[:, :2].min(0) - room, box[:, 2:].max(0) + room])
            boxes[n + 1] = [float(np.clip(edge, 0, 1)) for edge in edges]
        motion = actor.acts[0][0]
        words = caption(actor.name, motion, clip.stage)
        regions.append(Region(entity=f"little {actor.name}", motion=motion, caption=words, boxes=boxes))
    return Scene(id=name, background=STAGES[clip.stage][0], regions=tuple(regions))


@cache
def film() -> tuple[Frames, Plan]:
    """Two scenes, each with two actors that keep apart."""
    apart = [
        random_clip(np.random.default_rng(seed), motions=("stands still", "jumps up and down"), actors=2, changes=0)
        for seed in (1, 4)
    ]
    plan = Plan(scenes=tuple(scene_of(clip, f"shot-{n}") for n, clip in enumerate(apart)))
    return np.concatenate([clip.frames for clip in apart]), plan


def test_a_true_film_fulfils_its_plan_even_when_enlarged() -> None:
    frames, plan = film()
    large = frames.repeat(3, 1).repeat(3, 2)
    report = judge_film(large, plan)
    assert report.stages == report.found == report.region_binding == report.motion == 1
    assert report.likeness is not None and report.likeness > 0.9
    assert FilmReport.model_validate_json(report.model_dump_json()) == report
    assert len(table(report).rows) == 4


def test_a_scene_that_the_film_does_not_show() -> None:
    frames, plan = film()
    scene = plan.scenes[0]
    absent = next(name for name in CHARACTERS if name not in {r.entity.split()[1] for r in scene.regions})
    region = Region(entity=absent, motion="flies up", caption=f"a {absent} flies up", boxes={1: [0, 0, 1, 1]})
    dog = Region(entity="dog", caption="a dog", boxes={1: [0, 0, 1, 1]})
    stage = next(phrases[1] for name, phrases in STAGES.items() if name != stage_of(frames[:FRAMES])[0])
    report = judge_scene(frames[:FRAMES], Scene(id="other", background=stage, regions=(region, dog)))
    assert report.stage != report.stage_seen
    assert report.characters[0].found == 0 and report.characters[0].motion_seen is None
    assert not report.characters[0].keyframes[0].bound
    assert sorted(report.strangers) == sorted(r.entity.split()[1] for r in scene.regions)
    assert report.unknown == ["dog"]
    assert len(table(FilmReport(scenes=[report])).rows) == 4


def test_a_stranger_in_the_region_unbinds_it() -> None:
    frames, plan = film()
    scene = plan.scenes[0]
    everywhere = [
        Region(entity=r.entity, motion=r.motion, caption=r.caption, boxes={1: [0, 0, 1, 1]}) for r in scene.regions
    ]
    report = judge_scene(frames[:FRAMES], Scene(id="wide", background=scene.background, regions=tuple(everywhere)))
    for character in report.characters:
        keyframe = character.keyframes[0]
        assert keyframe.centre_inside and keyframe.share == 1 and len(keyframe.others) == 1 and not keyframe.bound


def test_films_that_are_not_the_plans() -> None:
    frames, plan = film()
    with pytest.raises(InputError, match="47 frames, but the plan's 2 scenes of 24 make 48"):
        judge_film(frames[:-1], plan)
    with pytest.raises(InputError, match="112x63; the judge reads 112x64"):
        judge_film(frames[:, :-1], plan)
    with pytest.raises(InputError, match="224x64"):
        judge_film(frames.repeat(2, 2), plan)
    with pytest.raises(InputError, match="is not in the cast"):
        find(frames[:1], ["dog"])
    with pytest.raises(InputError, match="float32"):
        find(frames[:1].astype(np.float32))
