"""Where LoRAs stand, as the judge sees it (the paper's ablation): `python -m benchmarks.ablation --placement`.

Every scene is rendered with the same seed by priors learned in three ways: motion and subject LoRAs interleaved by
block (ours, and the paper's), a half of the blocks each, and interleaved without the training videos' own LoRAs; and
without priors. The scenes: base characters doing library motions, and never-seen characters doing them, for which both
kinds of LoRA act at once. All results are kept in the storage, so the command goes on where it was interrupted.

Writes docs/placement-BASE.md and prints one JSON object as its last line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablation import DOCS, MODELS, PHRASES, SEED, bundle_of, clips_of, console, judged, markdown, mean
from cluster.client import render_films
from cluster.films import FilmRequest, keep_image, request_of
from cluster.store import Store
from engine.miniature import words
from engine.miniature.judge import SceneReport
from engine.miniature.settings import Checkpoint
from engine.miniature.trials import Trial, motion_trials
from engine.miniature.world import SPRITES, random_clip
from engine.plan import KEYFRAMES, Box, Character, Plan, Region, Scene
from engine.settings import ExecutionPlan, RenderSettings
from serving.progress import Progress

WAYS: dict[str, dict[str, Any] | None] = {
    "no priors": None,
    "interleaved": {},
    "halves": {"placement": "halves"},
    "no per-video LoRA": {"video_loras": False},
}
COLUMNS = ("library motion", "identity", "new subject's motion", "new subject", "smoothness")


def both_trials(count: int) -> list[Trial]:
    """A never-seen character doing a library motion, in one box that is the whole picture."""
    trials = []
    for n in range(count):
        name = list(PHRASES)[n % len(PHRASES)]
        motion = words.LIBRARY_MOTIONS[n % len(words.LIBRARY_MOTIONS)]
        clip = random_clip(np.random.default_rng((SEED, 4, n)), (name,), (motion,), actors=1, changes=0)
        place, empty = words.STAGES[clip.stage]
        region = Region(
            entity=name, motion=motion, caption=f"{words.article(PHRASES[name])} {motion} {place}",
            boxes=dict.fromkeys(range(1, KEYFRAMES + 1), Box(0, 0, 1, 1)),
        )  # fmt: skip
        trials.append(Trial("both", Scene(id=f"both-{n:03d}", background=empty, regions=(region,)), clip))
    return trials


def requests(store: Store, trials: Sequence[Trial], base: Checkpoint, prior_steps: int) -> list[FilmRequest]:
    """A film for each of the WAYS; what two of them share is made once."""
    bundle = bundle_of(base, prior_steps)
    settings = RenderSettings(num_inference_steps=bundle.num_inference_steps, guidance_scale=bundle.guidance_scale)
    images = {name: (keep_image(store, (SPRITES / f"{name}.png").read_bytes()),) for name in PHRASES}
    characters = {name: Character(phrase=phrase, images=images[name]) for name, phrase in PHRASES.items()}
    plans = {
        way: Plan(title=f"placement: {way}", scenes=tuple(t.scene for t in trials), characters=characters)
        for way in WAYS
    }
    return [
        request_of(
            bundle.model_copy(update={"priors": bundle.priors.model_copy(update=changed or {})}), MODELS[base], store,
            plan=plans[way], seed=SEED, settings=settings, learn=changed is not None,
            execution=ExecutionPlan(device="cpu", dtype="float32", threads=1),
        )
        for way, changed in WAYS.items()
    ]  # fmt: skip


def figures(trials: Sequence[Trial], reports: Sequence[SceneReport]) -> dict[str, float | None]:
    """The COLUMNS of one way."""
    known = [c for t, r in zip(trials, reports, strict=True) if t.kind == "motion" for c in r.characters]
    new = [c for t, r in zip(trials, reports, strict=True) if t.kind == "both" for c in r.characters]
    return {
        "library motion": mean(c.motion == c.motion_seen for c in known),
        "identity": mean(c.found / c.frames for c in known),
        "new subject's motion": mean(c.motion == c.motion_seen for c in new),
        "new subject": mean((c.likeness or 0) * c.found / c.frames for c in new),
        "smoothness": mean(c.smoothness for c in (*known, *new) if c.smoothness is not None),
    }


def compare(scenes: int, base: Checkpoint, storage: str, workers: int, prior_steps: int) -> None:
    """Learns, renders, judges; `scenes` of each of the two kinds."""
    trials, store = [*motion_trials(scenes, SEED), *both_trials(scenes)], Store(storage)
    asked = dict(zip(WAYS, requests(store, trials, base, prior_steps), strict=True))
    report("placement", asked, trials, base, store, workers, COLUMNS)


def report(
    name: str, asked: Mapping[str, FilmRequest], trials: Sequence[Trial], base: Checkpoint, store: Store, workers: int,
    columns: Sequence[str],
) -> None:  # fmt: skip
    """Makes the films that are missing, judges each way's, and writes docs/NAME-BASE.md and the JSON line."""
    missing = [request for request in asked.values() if request.finished(store) is None]
    if missing:
        with Progress(console, [r.plan.title for r in missing if r.plan]) as progress:
            render_films(store, missing, workers, None, progress.update)
    rows = {
        way: figures(trials, judged(clips_of(store, request), trials, f"judging {way}"))
        for way, request in asked.items()
    }
    rows = {way: {column: row[column] for column in columns} for way, row in rows.items()}
    table = markdown(rows, columns)
    Path(DOCS / f"{name}-{base}.md").write_text(table)
    console.print(table)
    print(json.dumps({"base": base.value, "scenes": len(trials), name: rows}))
