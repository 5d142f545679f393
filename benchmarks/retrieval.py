"""What the clips of a motion do to its prior (the paper's ablation): `python -m benchmarks.ablation --retrieval`.

Library motions are learned from no clips at all, from the best 3 and the best 20 of the four steps, and from the 20
that BM25 alone puts first; the same scenes are rendered with the same seed, and judged. All results are kept in the
storage, so the command goes on where it was interrupted.

Writes docs/retrieval-BASE.md and prints one JSON object as its last line.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.ablation import MODELS, SEED
from benchmarks.placement import report
from cluster.films import request_of
from cluster.store import Store
from engine.miniature.settings import Checkpoint
from engine.miniature.trials import motion_trials
from engine.models import load_bundle
from engine.plan import Plan
from engine.settings import ExecutionPlan, RenderSettings

WAYS: dict[str, dict[str, Any] | None] = {
    "no clips": None,
    "3 clips": {"most": 3, "least": 3},
    "20 clips": {"most": 20},
    "20 clips by words alone": {"most": 20, "scored": False},
}
COLUMNS = ("library motion", "identity", "smoothness")


def variant(model: str, changes: dict[str, Any], prior_steps: int, folder: Path) -> str:
    """A bundle like the model's but for its retrieval's numbers and priors' steps: all files are the model's own."""
    bundle = load_bundle(model)
    folder.mkdir()
    for file in bundle.folder.resolve().iterdir():
        if file.name != "bundle.yaml":
            (folder / file.name).symlink_to(file)
    said = yaml.safe_load((bundle.folder / "bundle.yaml").read_text())
    said["library"]["retrieval"] |= changes
    said["priors"] |= {"steps": prior_steps} if prior_steps else {}
    if said["library"]["scorers"]:
        said["library"]["scorers"] = str((bundle.folder / said["library"]["scorers"]).resolve())
    (folder / "bundle.yaml").write_text(yaml.safe_dump(said))
    return str(folder)


def compare(scenes: int, base: Checkpoint, storage: str, workers: int, prior_steps: int) -> None:
    """Finds, learns, renders, judges."""
    trials, store = motion_trials(scenes, SEED), Store(storage)
    with tempfile.TemporaryDirectory() as folder:
        asked = {}
        for n, (way, changes) in enumerate(WAYS.items()):
            model = variant(MODELS[base], changes or {}, prior_steps, Path(folder) / f"way-{n}")
            bundle = load_bundle(model)
            asked[way] = request_of(
                bundle, model, store, seed=SEED, learn=changes is not None,
                plan=Plan(title=f"retrieval: {way}", scenes=tuple(t.scene for t in trials)),
                settings=RenderSettings(
                    num_inference_steps=bundle.num_inference_steps, guidance_scale=bundle.guidance_scale
                ),
                execution=ExecutionPlan(device="cpu", dtype="float32", threads=1),
            )  # fmt: skip
        report("retrieval", asked, trials, base, store, workers, COLUMNS)
