"""What priors cost and what they change: `python -m benchmarks.priors [--steps N] [--scenes N]`.

Four motions that the miniature does not know are learned one after the other and all in one batch, in one resident
model; one is learned by a fresh process (the released way), and one by two workers; one subject is learned from its
picture. The judge looks at scenes with and without them. Draws docs/priors.webp: a scene of each motion and of the
subject, without its prior, with it, and a true clip. Last line: one JSON object:

- cold_s: seconds of one prior learned alone, encoding included, in a model that is there; warm_s: until a prior that
  was learned before is read from the store and ready to render with;
- several_at_once_speedup: the four one after the other / all in one batch; vs_process_per_prior: seconds of a prior by
  a process of its own / cold_s; workers_2_speedup: one worker / two, of a batch of four (null on a single core);
- motion_gain: share of scenes whose motion the judge names as asked for, with priors learned at once less without;
  motion_gain_single: the same with those learned alone; subject_gain: likeness times share of frames in which the
  subject is found, with its prior less without;
- peak_mb: the most memory of this process (on a GPU: of the GPU).
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from PIL import Image

from benchmarks.processes import end, start, together
from cluster.store import Store
from engine.encodings import Encodings
from engine.groups import Ranks
from engine.miniature import words
from engine.miniature.judge import CharacterReport, judge_scene, to_world_size
from engine.miniature.world import SPRITES, random_clip
from engine.models import PriorSettings, load_bundle
from engine.plan import KEYFRAMES, Box, Region, Scene
from engine.priors import Prior, TrainingClip, learn_motion, learn_motions, learn_subject
from engine.render import render_clip
from engine.settings import ExecutionPlan, RenderSettings
from engine.video_model import VideoModel

DOCS = Path(__file__).parent.parent / "docs"
STAGES = ("forest", "desert", "snow", "city", "beach", "meadow")
CAST = ("fox", "panda", "robot", "frog", "lion", "owl")
SUBJECT, SUBJECT_STAGES = "pumpkin", ("forest", "desert")
WORKERS_BATCH = 4  # divides by two workers
MOMENTS = 6


class Use(NamedTuple):
    """A prior in a scene."""

    of: str
    name: str
    key: str


class Job(NamedTuple):
    """What the processes of `workers_2_speedup` are asked for."""

    settings: PriorSettings
    world_size: int
    rank: int = 0
    address: str = ""


class Learner:
    """A worker that learns the first motion with others."""

    def __init__(self) -> None:
        self.model = VideoModel(load_bundle("miniature"))
        self.clips = clips_of(words.LIBRARY_MOTIONS[0], 12)

    def run(self, job: Job) -> float:
        forget(self.model)
        began = time.perf_counter()
        learn_motion(self.model, self.clips, job.settings, 0, ranks=Ranks(job.rank, job.world_size, job.address))
        return time.perf_counter() - began


def clips_of(motion: str, count: int) -> list[TrainingClip]:
    """Clips of base characters doing the motion, those that will be rendered not among them."""
    cast = tuple(c for c in words.BASE_CHARACTERS if c not in CAST)
    made = [random_clip(np.random.default_rng((8, n)), cast, (motion,), actors=1, changes=0) for n in range(count)]
    return [
        TrainingClip(f"clip {n}", words.caption(clip.actors[0].name, motion, clip.stage), clip.frames)
        for n, clip in enumerate(made)
    ]


def scene(number: int, phrase: str, name: str, motion: str, stage: str, box: Box) -> Scene:
    place, empty = words.STAGES[stage]
    region = Region(
        entity=name, motion=motion, caption=f"{words.article(phrase)} {motion} {place}",
        boxes=dict.fromkeys(range(1, KEYFRAMES + 1), box),
    )  # fmt: skip
    return Scene(id=f"prior-{number}-{stage}", background=empty, regions=(region,))


def render(model: VideoModel, scenes: Sequence[Scene], kind: str, prior: Prior | None, key: str) -> list[np.ndarray]:
    """The scenes' frames, with the prior in its region or without."""
    from engine.video import read_video

    b = model.bundle
    settings = RenderSettings(num_inference_steps=b.num_inference_steps, guidance_scale=b.guidance_scale)
    execution = ExecutionPlan(device="cpu", dtype="float32", threads=1)
    films = []
    for s in scenes:
        region = s.regions[0]
        uses = [Use(kind, region.motion if kind == "motion" else region.entity, key)] if prior else []
        made = render_clip(model, s, 0, settings, execution, uses, lambda _: prior.weights if prior else b"")
        assert made
        films.append(to_world_size(read_video(made.clip)[0]))
    return films


def seen(films: Sequence[np.ndarray], scenes: Sequence[Scene]) -> list[CharacterReport]:
    return [judge_scene(film, s).characters[0] for film, s in zip(films, scenes, strict=True)]


def motions_right(films: Sequence[np.ndarray], scenes: Sequence[Scene]) -> list[bool]:
    return [c.motion_seen == c.motion for c in seen(films, scenes)]


def likeness(films: Sequence[np.ndarray], scenes: Sequence[Scene]) -> float:
    return statistics.mean((c.likeness or 0) * c.found / c.frames for c in seen(films, scenes))


def strip(film: np.ndarray) -> np.ndarray:
    return np.concatenate(list(film[2 :: len(film) // MOMENTS][:MOMENTS]), 1)


def forget(model: VideoModel) -> None:
    """Nothing is encoded any more."""
    model.encodings = Encodings(model.encodings.about)


def timed(model: VideoModel, learn: Any) -> tuple[Any, float]:
    forget(model)
    began = time.perf_counter()
    made = learn()
    return made, time.perf_counter() - began


def report(what: str, done: int, total: int) -> None:
    print(f"\r{what}: step {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def warm_seconds(model: VideoModel, prior: Prior) -> float:
    """Until a prior that was learned before is read, checked and resident."""
    with tempfile.TemporaryDirectory() as folder:
        store, found = Store(folder), []
        store.put("prior", "k", {"prior.safetensors": prior.weights, "card.json": json.dumps(prior.card).encode()}, {})
        for n in range(5):
            began = time.perf_counter()
            model.loras.bring([f"warm-{n}"], lambda _: store.get("prior", "k", "prior.safetensors"))
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def child_seconds(motion: str, clips: int, settings: PriorSettings) -> float:
    """A prior by a process of its own."""
    child = json.dumps({"motion": motion, "clips": clips, "settings": settings.model_dump()})
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "benchmarks.priors", "--child", child], check=True)
    return time.perf_counter() - began


def workers_2_speedup(settings: PriorSettings) -> float | None:
    """One worker against two on the same batch; None on a single core."""
    if len(os.sched_getaffinity(0)) < 2:
        return None
    work = settings.model_copy(update={"batch": WORKERS_BATCH, "steps": max(settings.steps // 4, 5)})
    connections = start(2, Learner)
    try:
        together(connections, Job(work.model_copy(update={"steps": 2}), 2))  # what is compiled at first use
        both = max(together(connections, Job(work, 2)))
        alone = max(together(connections[:1], Job(work, 1)))
    finally:
        end(connections)
    return round(alone / both, 2)


def peak_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main(
    steps: Annotated[int, typer.Option(help="of motions; 0: the bundle's")] = 0,
    subject_steps: Annotated[int, typer.Option(help="0: the bundle's")] = 0,
    scenes: Annotated[int, typer.Option(min=1, max=len(CAST), help="of each motion")] = 2,
    clips: Annotated[int, typer.Option(min=1, help="of each motion")] = 12,
    priors: Annotated[int, typer.Option(min=1, max=len(words.LIBRARY_MOTIONS), help="motions")] = 4,
    processes: Annotated[bool, typer.Option(help="also a process per prior, and two workers")] = True,
    picture: Path = DOCS / "priors.webp",
    child: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Learns, renders, judges, draws."""
    torch.set_num_threads(1)
    model = VideoModel(load_bundle("miniature"))
    if child:
        asked = json.loads(child)
        learn_motion(
            model, clips_of(asked["motion"], asked["clips"]), PriorSettings.model_validate(asked["settings"]), 0
        )
        return
    chosen = {"steps": steps, "subject_steps": subject_steps}
    settings: PriorSettings = model.bundle.priors.model_copy(update={k: v for k, v in chosen.items() if v})
    motions = words.LIBRARY_MOTIONS[:priors]
    shown = [clips_of(motion, clips) for motion in motions]
    learn_motion(model, shown[0], settings.model_copy(update={"steps": 1}), 0)  # what happens at first use alone
    single, spent = [], []
    for motion, own in zip(motions, shown, strict=True):
        prior, seconds = timed(model, partial(learn_motion, model, own, settings, 0, partial(report, motion)))
        single.append(prior)
        spent.append(seconds)
    many, at_once = timed(model, partial(learn_motions, model, shown, settings, 0, partial(report, "all at once")))
    learner = partial(
        learn_subject, model, [Image.open(SPRITES / f"{SUBJECT}.png")], f"[v1] {SUBJECT}", settings, 0,
        partial(report, SUBJECT),
    )  # fmt: skip
    subject, subject_s = timed(model, learner)
    result: dict[str, Any] = {
        "cold_s": round(statistics.mean(spent), 2), "warm_s": round(warm_seconds(model, single[0]), 4),
        "several_at_once_speedup": round(sum(spent) / at_once, 2), "vs_process_per_prior": None,
        "workers_2_speedup": None,
    }  # fmt: skip
    if processes:
        per_process = child_seconds(motions[0], clips, settings)
        result["vs_process_per_prior"] = round(per_process / spent[0], 2)
        result["workers_2_speedup"] = workers_2_speedup(settings)
    right: dict[str, list[bool]] = {"without": [], "single": [], "many": []}
    rows = []
    for n, motion in enumerate(motions):
        wanted = [
            scene(n, CAST[(n + i) % len(CAST)], CAST[(n + i) % len(CAST)], motion, STAGES[i], Box(0, 0, 1, 1))
            for i in range(scenes)
        ]
        films = {
            "without": render(model, wanted, "motion", None, ""),
            "single": render(model, wanted, "motion", single[n], f"single-{n}"),
            "many": render(model, wanted, "motion", many[n], f"many-{n}"),
        }
        for way, made in films.items():
            right[way] += motions_right(made, wanted)
        true = random_clip(np.random.default_rng(2), (CAST[n % len(CAST)],), (motion,), actors=1, changes=0).frames
        rows += [strip(films["without"][0]), strip(films["many"][0]), strip(true)]
    phrase, box = f"[v1] {SUBJECT}", Box(0.25, 0.2, 0.75, 1)
    wanted = [scene(0, phrase, SUBJECT, "stands still", stage, box) for stage in SUBJECT_STAGES]
    before, after = render(model, wanted, "subject", None, ""), render(model, wanted, "subject", subject, SUBJECT)
    true = random_clip(np.random.default_rng(2), (SUBJECT,), ("stands still",), actors=1, changes=0).frames
    rows += [strip(before[0]), strip(after[0]), strip(true)]
    sheet = Image.fromarray(np.concatenate(rows))
    picture.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.LANCZOS).save(picture, quality=80, method=6)
    share = {way: statistics.mean(values) for way, values in right.items()}
    result |= {
        "motion_gain": round(share["many"] - share["without"], 3),
        "motion_gain_single": round(share["single"] - share["without"], 3),
        "subject_gain": round(likeness(after, wanted) - likeness(before, wanted), 3), "peak_mb": round(peak_mb()),
    }  # fmt: skip
    about = {
        "motions": list(motions), "scenes": scenes, "clips": clips, "steps": settings.steps,
        "subject_steps": settings.subject_steps, "subject_s": round(subject_s, 2),
        "kept_steps": {"single": [p.card["kept_step"] for p in single], "many": [p.card["kept_step"] for p in many],
                       "subject": subject.card["kept_step"]},
        "steps_taken": {"single": [p.card["steps"] for p in single], "subject": subject.card["steps"]},
        "right": {way: round(value, 3) for way, value in share.items()},
    }  # fmt: skip
    print(json.dumps({**result, **about}))


if __name__ == "__main__":
    typer.run(main)
