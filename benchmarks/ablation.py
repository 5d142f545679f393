"""What SR3AI and the priors change, as the judge sees it: the paper's tables in small.

    python -m benchmarks.ablation [--plans FOLDER] [--scenes N] [--base plain|default]

Every scene is rendered four times by the engine itself, with the same seed: {SR3AI off, on} x {priors off, on}. "Off"
is the plain pipeline: one caption that names everyone and where, heard by the whole picture. There are N scenes of
known characters and motions, two for each library motion, and two for each never-seen character (fewer when N is
small). All results are kept in the storage, so the command goes on where it was interrupted.

Draws docs/ablation-BASE.png (the figures) and docs/ablation-BASE-scenes.webp (ten scenes, off above on), writes
docs/ablation-BASE.md (the table), and prints one JSON object as its last line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

from benchmarks.reconstruction import psnr, through_vae
from cluster.client import render_films
from cluster.films import FilmRequest, keep_image, request_of
from cluster.store import Store
from engine.miniature import words
from engine.miniature.judge import SceneReport, judge_scene, to_world_size
from engine.miniature.settings import Checkpoint
from engine.miniature.trials import Trial, known_trials, motion_trials, subject_trials, without_regions
from engine.miniature.world import FRAMES, SPRITES
from engine.models import Bundle, load_bundle
from engine.plan import Character, Plan, load_plan
from engine.settings import ExecutionPlan, RenderSettings
from engine.video import read_video
from serving.progress import Progress

DOCS = Path(__file__).parent.parent / "docs"
MODELS = {Checkpoint.plain: "miniature-plain", Checkpoint.default: "miniature"}
PHRASES = {name: f"[v{n}] {name}" for n, name in enumerate(words.NEW_CHARACTERS, 1)}
SEED = 17
SHOWN = 10  # scenes on the sheet
COLUMNS = ("region binding", "identity", "base motion", "library motion", "new subject", "smoothness")
console = Console(stderr=True)


class Mode(NamedTuple):
    """One of the four ways to render a scene."""

    sr3ai: bool
    priors: bool

    @property
    def name(self) -> str:
        return f"SR3AI {'on' if self.sr3ai else 'off'}, priors {'on' if self.priors else 'off'}"


MODES = [Mode(sr3ai, priors) for sr3ai in (False, True) for priors in (False, True)]


def trials_of(plans: Path | None, scenes: int) -> list[Trial]:
    """The scenes of a folder's plans, or ours; and those with something to learn."""
    known = known_trials(scenes, SEED)
    if plans is not None:
        told = [scene for file in sorted(plans.glob("*.y*ml")) for scene in load_plan(file).scenes]
        known = [Trial("plan", scene.model_copy(update={"id": f"plan-{n:03d}"}), None) for n, scene in enumerate(told)][
            :scenes
        ]
    learned = max(scenes // 4, 1)
    return [
        *known,
        *motion_trials(min(2 * len(words.LIBRARY_MOTIONS), learned), SEED),
        *subject_trials(min(2 * len(PHRASES), learned), SEED, PHRASES),
    ]


def bundle_of(base: Checkpoint, prior_steps: int = 0) -> Bundle:
    """The checkpoint's bundle; its motions are learned in `prior_steps` when that is not 0."""
    bundle = load_bundle(MODELS[base])
    changes = {"steps": prior_steps} if prior_steps else {}
    return bundle.model_copy(update={"priors": bundle.priors.model_copy(update=changes)})


def requests(store: Store, trials: Sequence[Trial], base: Checkpoint, prior_steps: int) -> list[FilmRequest]:
    """A film for each of the MODES; what two of them share is made once."""
    bundle = bundle_of(base, prior_steps)
    settings = RenderSettings(num_inference_steps=bundle.num_inference_steps, guidance_scale=bundle.guidance_scale)
    execution = ExecutionPlan(device="cpu", dtype="float32", threads=1)
    images = {name: (keep_image(store, (SPRITES / f"{name}.png").read_bytes()),) for name in PHRASES}
    asked = []
    for mode in MODES:
        drawn = [trial.scene if mode.sr3ai else without_regions(trial.scene, PHRASES) for trial in trials]
        plan = Plan(
            title=f"ablation: {mode.name}", scenes=tuple(drawn),
            characters={name: Character(phrase=phrase, images=images[name]) for name, phrase in PHRASES.items()},
        )  # fmt: skip
        asked.append(
            request_of(
                bundle,
                MODELS[base],
                store,
                plan=plan,
                seed=SEED,
                settings=settings,
                execution=execution,
                learn=mode.priors,
            )
        )
    return asked


def clips_of(store: Store, request: FilmRequest) -> list[np.ndarray]:
    assert request.plan
    jobs = request.film(request.plan).scenes
    return [to_world_size(read_video(store.get(*job.result, "clip.mp4"))[0]) for job in jobs]


def judged(clips: Sequence[np.ndarray], trials: Sequence[Trial], what: str) -> list[SceneReport]:
    """What the judge says of each, always against the plan with regions."""
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        reports = pool.map(judge_scene, clips, [trial.scene for trial in trials])
        return list(track(reports, what, len(clips), console=console))


def mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return round(sum(numbers) / len(numbers), 3) if numbers else None


def figures(trials: Sequence[Trial], reports: Sequence[SceneReport]) -> dict[str, float | None]:
    """The COLUMNS of one mode."""
    by_kind = {"motion": [], "subject": [], "known": []}
    for trial, report in zip(trials, reports, strict=True):
        by_kind[trial.kind if trial.kind in by_kind else "known"] += report.characters
    known = by_kind["known"]
    return {
        "region binding": mean(k.bound for c in (*known, *by_kind["subject"]) for k in c.keyframes),
        "identity": mean(c.found / c.frames for c in known),
        "base motion": mean(c.motion == c.motion_seen for c in known),
        "library motion": mean(c.motion == c.motion_seen for c in by_kind["motion"]),
        "new subject": mean((c.likeness or 0) * c.found / c.frames for c in by_kind["subject"]),
        "smoothness": mean(c.smoothness for c in known if c.smoothness is not None),
    }


def ceiling(trials: Sequence[Trial], base: Checkpoint) -> dict[str, Any]:
    """The same figures of true clips, and of true clips that went through the VAE; the VAE's PSNR on them."""
    there = [trial for trial in trials if trial.clip]
    true = [trial.clip.frames for trial in there if trial.clip]
    vae = through_vae(true, Path(load_bundle(MODELS[base]).video_path))
    return {
        "true": figures(there, judged(true, there, "judging true clips")),
        "vae": figures(there, judged(vae, there, "judging them through the VAE")),
        "vae_psnr_db": psnr(true, vae),
    }


def markdown(rows: dict[str, dict[str, float | None]], columns: Sequence[str]) -> str:
    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(cell(row[column]) for column in columns)} |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def plot(rows: dict[str, dict[str, float | None]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 3.4), layout="constrained")
    colours = ("#cccccc", "#8fb8de", "#e8a0a8", "#d1495b", "#555555", "#999999")
    width = 0.8 / len(rows)
    for n, ((name, row), colour) in enumerate(zip(rows.items(), colours, strict=True)):
        at = np.arange(len(COLUMNS)) + (n - (len(rows) - 1) / 2) * width
        axes.bar(at, [row[column] or 0 for column in COLUMNS], width, label=name, color=colour)
    axes.set(xticks=range(len(COLUMNS)), xticklabels=COLUMNS, ylim=(0, 1))
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    axes.grid(axis="y", alpha=0.2)
    figure.savefig(file, dpi=110)


def sheet(trials: Sequence[Trial], off: Sequence[np.ndarray], on: Sequence[np.ndarray], file: Path) -> None:
    """Ten scenes with six moments each: off above on, and what it should be below."""
    chosen = np.linspace(0, len(trials) - 1, SHOWN).round().astype(int)
    rows = []
    for n in dict.fromkeys(chosen.tolist()):
        clip = trials[n].clip
        strips = [off[n], on[n], *([clip.frames] if clip else [])]
        rows += [np.concatenate(list(frames[2 :: FRAMES // 6]), 1) for frames in strips]
        rows.append(np.full((4, rows[-1].shape[1], 3), 255, np.uint8))
    image = Image.fromarray(np.concatenate(rows))
    image.resize((image.width * 3 // 2, image.height * 3 // 2), Image.Resampling.LANCZOS).save(
        file, quality=80, method=6
    )


def summary(rows: dict[str, dict[str, float | None]]) -> dict[str, Any]:
    """The named comparisons."""
    both, neither = rows[Mode(True, True).name], rows[Mode(False, True).name]
    without = rows[Mode(True, False).name]

    def compare(column: str, off: dict[str, float | None]) -> dict[str, float | None]:
        return {"off": off[column], "on": both[column]}

    return {
        "region_binding": compare("region binding", neither),
        "base_motion": compare("base motion", neither),
        "motion": compare("library motion", without),
        "identity": compare("identity", neither),
        "new_subject": {**compare("new subject", without), "true": rows["true clips"]["new subject"]},
        "smoothness": compare("smoothness", neither),
    }


def main(
    plans: Annotated[Path | None, typer.Option(help="a folder of plans", exists=True, file_okay=False)] = None,
    scenes: Annotated[int, typer.Option(min=1, max=150, help="of known characters and motions")] = 48,
    base: Annotated[Checkpoint, typer.Option(help="which video checkpoint")] = Checkpoint.default,
    storage: Annotated[str, typer.Option(help="where results are kept")] = ".dreamrunner",
    workers: Annotated[int, typer.Option(min=1)] = 2,
    prior_steps: Annotated[int, typer.Option(min=0, help="of motions; 0: the bundle's")] = 0,
    placement: Annotated[
        bool, typer.Option("--placement", help="where LoRAs stand instead: benchmarks/placement.py")
    ] = False,
    retrieval: Annotated[
        bool, typer.Option("--retrieval", help="how many clips, filtered or not, instead: benchmarks/retrieval.py")
    ] = False,
) -> None:
    """Renders, judges, draws."""
    if placement or retrieval:
        way = import_module("benchmarks.placement" if placement else "benchmarks.retrieval")
        way.compare(max(scenes // 4, 1), base, storage, workers, prior_steps)
        return
    trials, store = trials_of(plans, scenes), Store(storage)
    asked = requests(store, trials, base, prior_steps)
    missing = [request for request in asked if request.finished(store) is None]
    if missing:
        with Progress(console, [r.plan.title for r in missing if r.plan]) as progress:
            render_films(store, missing, workers, None, progress.update)
    clips = {mode: clips_of(store, request) for mode, request in zip(MODES, asked, strict=True)}
    rows = {mode.name: figures(trials, judged(clips[mode], trials, f"judging {mode.name}")) for mode in MODES}
    truth = ceiling(trials, base)
    rows |= {"true clips": truth["true"], "true clips through the VAE": truth["vae"]}
    DOCS.mkdir(exist_ok=True)
    table = markdown(rows, COLUMNS)
    (DOCS / f"ablation-{base}.md").write_text(table)
    plot(rows, DOCS / f"ablation-{base}.png")
    sheet(trials, clips[Mode(False, True)], clips[Mode(True, True)], DOCS / f"ablation-{base}-scenes.webp")
    console.print(table)

    def lowest(row: dict[str, float | None]) -> float:
        return min(value for column in ("identity", "base motion") if (value := row[column]) is not None)

    judge = {"true": lowest(truth["true"]), "vae": lowest(truth["vae"])}
    result = {"judge": judge, "vae_psnr_db": truth["vae_psnr_db"], "scenes": len(trials), "base": base.value,
              "prior_steps": bundle_of(base, prior_steps).priors.steps}  # fmt: skip
    print(json.dumps({**result, **summary(rows), "rows": rows}))


if __name__ == "__main__":
    typer.run(main)
