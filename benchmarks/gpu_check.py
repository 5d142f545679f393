"""The first look at a machine with GPUs: `make gpu-check`, or `python -m benchmarks.gpu_check [--model M]`.

Loads a bundle on every GPU (up to eight); renders a scene by one worker and by all of them (guidance, then Ulysses)
and compares; holds SR3AI's attention against a dense mask in bfloat16, both against float64; learns a prior for 20
steps; and renders one scene whole, decoded. Without GPUs it takes the miniature, two processes and gloo, so that this
script is known to work. The last line is one JSON object with seconds, GB and a verdict; the exit code is 1 when the
verdict is not "ok".
"""

from __future__ import annotations

import json
import resource
import time
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console

from benchmarks.attention import dense_mask
from benchmarks.processes import end, start, together
from engine.attention import region_attention
from engine.models import load_bundle
from engine.parallel import parallel_scene
from engine.plan import Box, Region, Scene
from engine.priors import TrainingClip, learn_motion
from engine.regions import region_map
from engine.scene import denoise
from engine.settings import ExecutionPlan, RenderSettings
from engine.video_model import VideoModel

BOUNDS = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}  # of max|a-b| / max|a| after STEPS steps
STEPS, PRIOR_STEPS, MAX_GPUS = 4, 20, 8
ERROR_RATIO = 1.5  # bfloat16: ours / the masked kernel's
REFERENCE_HEADS, SEED = 2, 1
console = Console(stderr=True)

BOXES = {k: Box(k / 15, 0.3, k / 15 + 0.4, 1.0) for k in range(1, 7)}
SCENE = Scene(
    id="check",
    background="a green forest",
    regions=(
        Region(entity="fox", motion="walks right", caption="a fox walks right in the forest", boxes=BOXES),
        Region(
            entity="owl", motion="flies up", caption="an owl flies up in the forest",
            boxes={k: Box(0.5, 0.5 - k / 20, 0.9, 0.9 - k / 20) for k in (2, 3, 4)},
        ),
    ),
)  # fmt: skip


class Job(NamedTuple):
    """One thing to do; `rank` and `address` as for any group."""

    what: str
    guidance: int = 1
    ulysses: int = 1
    rank: int = 0
    address: str = ""


class Maker(NamedTuple):
    """Makes a member in its own process."""

    model: str
    dtype: str

    def __call__(self) -> CheckMember:
        return CheckMember(self.model, self.dtype)


class CheckMember:
    def __init__(self, model: str, dtype: str) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        bundle = load_bundle(model)
        self.dtype = dtype or (bundle.dtype if self.device == "cuda" else "float32")
        began = time.perf_counter()
        self.model = VideoModel(bundle, self.device, self.dtype)
        self.loading = time.perf_counter() - began

    def run(self, job: Job) -> dict[str, Any]:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        result = getattr(self, job.what)(job)
        return {**result, "seconds": time.perf_counter() - began, "gigabytes": self._gigabytes()}

    def _gigabytes(self) -> float:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    def load(self, job: Job) -> dict[str, Any]:
        heads = self.model.transformer.config.num_attention_heads
        return {"loading": self.loading, "device": self.device, "dtype": self.dtype, "heads": heads}

    def steps(self, job: Job) -> dict[str, Any]:
        """A few steps of the scene by all members of the job."""
        execution = ExecutionPlan(
            device=self.device, dtype=self.dtype, threads=1, guidance_degree=job.guidance, ulysses_degree=job.ulysses
        )
        settings = RenderSettings(num_inference_steps=STEPS, guidance_scale=self.model.bundle.guidance_scale)
        with parallel_scene(self.model, execution, job.rank, job.address) as parallel:
            *_, last = denoise(self.model, SCENE, SEED, settings, parallel=parallel)
        return {"latents": last.latents.float().cpu().numpy() if job.rank == 0 else None}

    @torch.no_grad()
    def attention(self, job: Job) -> dict[str, Any]:
        """Root mean square error of ours / that of the masked kernel in bfloat16, against float64."""
        model, config = self.model, self.model.transformer.config
        regions = region_map(SCENE, model.grid, model.bundle.text_tokens).to(model.device)
        mask = dense_mask(regions).to(model.device)
        torch.manual_seed(SEED)
        shape = (1, REFERENCE_HEADS, mask.shape[-1], config.attention_head_dim)
        q, k, v = (torch.randn(shape).to(model.device, torch.bfloat16) for _ in range(3))
        exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask)
        errors = [
            float((out.double() - exact).square().mean().sqrt())
            for out in (region_attention(q, k, v, regions), F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
        ]
        return {"error_ratio": errors[0] / errors[1]}

    def prior(self, job: Job) -> dict[str, Any]:
        """A motion prior from moving noise: is the loss finite, and the base untouched?"""
        b = self.model.bundle
        before = [p.detach().clone() for p in self.model.transformer.parameters()]
        source = np.random.default_rng(SEED)
        clips = [
            TrainingClip(
                f"clip {n}", "a fox hops", source.integers(0, 256, (b.num_frames, b.height, b.width, 3), np.uint8)
            )
            for n in range(4)
        ]
        settings = b.priors.model_copy(update={"steps": PRIOR_STEPS, "batch": 1})
        card = learn_motion(self.model, clips, settings, SEED).card
        same = all(torch.equal(a, p) for a, p in zip(before, self.model.transformer.parameters(), strict=True))
        return {"finite": bool(np.isfinite(card["curve"]).all()), "base_untouched": same}

    def scene(self, job: Job) -> dict[str, Any]:
        """A whole scene with the bundle's own steps, decoded."""
        b = self.model.bundle
        settings = RenderSettings(num_inference_steps=b.num_inference_steps, guidance_scale=b.guidance_scale)
        began = time.perf_counter()
        *_, last = denoise(self.model, SCENE, SEED, settings)
        denoising = time.perf_counter() - began
        frames = self.model.decode(last.latents)
        return {
            "denoising": denoising,
            "finite": bool(torch.isfinite(last.latents).all()),
            "frames": list(frames.shape),
        }


def splits_of(workers: int, heads: int) -> list[tuple[int, int]]:
    """(guidance, Ulysses) for all workers together, as far as heads allow."""
    found = [(2, workers // 2)] if workers % 2 == 0 else []
    found += [(1, workers)] if workers > 1 else []
    return [(guidance, ulysses) for guidance, ulysses in found if heads % ulysses == 0]


def main(
    model: Annotated[str, typer.Option(help="a bundle; default: cogvideox-2b, or the miniature without GPUs")] = "",
    workers: Annotated[int, typer.Option(min=0, help="0: one for each GPU, up to eight; two without GPUs")] = 0,
    dtype: Annotated[str, typer.Option(help="default: the bundle's on GPUs, float32 on CPUs")] = "",
) -> None:
    """Checks the machine."""
    gpus = torch.cuda.device_count()
    model, workers = model or ("cogvideox-2b" if gpus else "miniature"), workers or min(gpus, MAX_GPUS) or 2
    if gpus and workers > gpus:
        raise SystemExit(f"--workers {workers}: this machine has {gpus} GPUs")
    with console.status(f"{workers} workers load {model} ...") as status:
        connections = start(workers, Maker(model, dtype), gpus > 0)
        loaded = together(connections, Job("load"))
        status.update("one worker, a few steps ...")
        alone = together(connections[:1], Job("steps"))[0]
        cases = []
        for guidance, ulysses in splits_of(workers, loaded[0]["heads"]):
            status.update(f"guidance {guidance} x Ulysses {ulysses} ...")
            made = together(connections, Job("steps", guidance, ulysses))
            difference = abs(made[0]["latents"] - alone["latents"]).max() / abs(alone["latents"]).max()
            case = {"workers": workers, "guidance": guidance, "ulysses": ulysses, "rel_diff": float(difference)}
            cases.append({**case, "seconds": round(made[0]["seconds"], 2), "gb": round(made[0]["gigabytes"], 2)})
        done = {}
        for what in ("attention", "prior", "scene"):
            status.update(f"{what} ...")
            done[what] = together(connections[:1], Job(what))[0]
        end(connections)
    print(json.dumps(report := summary(model, loaded, alone, cases, done)))
    if report["verdict"] != "ok":
        raise SystemExit(1)


def summary(
    model: str,
    loaded: list[dict[str, Any]],
    alone: dict[str, Any],
    cases: list[dict[str, Any]],
    done: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """The JSON object; its verdict names all that is wrong."""
    dtype = loaded[0]["dtype"]
    wrong = [
        f"{c['guidance']} x {c['ulysses']} workers differ by {c['rel_diff']:.1e}" for c in cases
        if not c["rel_diff"] <= BOUNDS[dtype]
    ]  # fmt: skip
    if not done["attention"]["error_ratio"] <= ERROR_RATIO:
        wrong.append(f"attention's error is {done['attention']['error_ratio']:.2f} times the masked kernel's")
    if not done["prior"]["finite"] or not done["prior"]["base_untouched"]:
        wrong.append("the prior's loss is not finite, or the base changed")
    if not done["scene"]["finite"]:
        wrong.append("the scene's latents are not finite")
    parts = {name: {k: v for k, v in part.items() if k != "frames"} for name, part in done.items()}
    return {
        "model": model, "device": loaded[0]["device"], "dtype": dtype, "workers": len(loaded),
        "loading_seconds": round(max(member["loading"] for member in loaded), 1),
        "one_worker": {"steps": STEPS, "seconds": round(alone["seconds"], 2), "gb": round(alone["gigabytes"], 2)},
        "cases": cases,
        **{n: {k: round(v, 3) if isinstance(v, float) else v for k, v in part.items()} for n, part in parts.items()},
        "verdict": "; ".join(wrong) or "ok",
    }  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
