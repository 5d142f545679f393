"""One scene over 1, 2, 3, 4 and 6 workers: is it the same, how long does it take, what is sent, how much memory?

    python -m benchmarks.sequence_parallel [--steps 3]

Every worker is a process of its own with one thread, over gloo, as the engine's workers are. The cases render a clip of
the miniature with its own weights, in every split that six heads allow, with and without LoRAs and overlapping regions;
rel_diff is max|a-b| / max|a| of the latents to one worker's (float32). Seconds, bytes sent by one worker in a step and
peak memory are of a larger picture (3,600 visual tokens), where the activations outweigh the model. On a machine with
fewer cores than workers only seconds of 1 and 2 mean anything. Draws docs/workers.png, one scene by one worker and by
six. The last line is one JSON object.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import typer
from peft import LoraConfig
from PIL import Image
from rich.console import Console
from rich.progress import track

from benchmarks.processes import end, start, together
from engine.adapters import region_loras
from engine.models import load_bundle
from engine.parallel import parallel_scene
from engine.plan import Box, Region, Scene
from engine.regions import region_map
from engine.scene import denoise
from engine.settings import ExecutionPlan, RenderSettings
from engine.video_model import VideoModel

SPLITS = ((2, 1), (1, 2), (1, 3), (2, 2), (2, 3), (1, 6))  # guidance degree, Ulysses degree
TIMED = {1: (1, 1), 2: (2, 1), 4: (2, 2)}  # workers -> split, on the larger picture
SENT = (1, 2)
AMPLIFIED = 64
DOCS = Path(__file__).parent.parent / "docs"
LARGE = {"height": 160, "width": 240}  # 10 times the tokens of the miniature's own picture
console = Console(stderr=True)


class Job(NamedTuple):
    """A scene for one worker."""

    guidance: int
    ulysses: int
    rank: int = 0
    address: str = ""
    loras: bool = False
    overlap: bool = False
    large: bool = False
    steps: int = 3
    decode: bool = False


def scene_of(overlap: bool) -> Scene:
    """Two actors; the owl flies through the fox's box, or beside it. It is there in half of the keyframes."""
    left = 0.3 if overlap else 0.55
    fox = Region(
        entity="fox", motion="walks right", caption="a fox walks right in the forest",
        boxes={k: Box(k / 30, 0.3, k / 30 + 0.3, 1) for k in range(1, 7)},
    )  # fmt: skip
    owl = Region(
        entity="owl", motion="flies up", caption="an owl flies up in the forest",
        boxes={k: Box(left, 0.6 - k / 10, left + 0.4, 1 - k / 10) for k in (2, 3, 4)},
    )  # fmt: skip
    return Scene(id="s", background="a green forest", regions=(fox, owl))


class Member:
    """What a worker's process keeps from job to job."""

    def __init__(self) -> None:
        self.model = VideoModel(load_bundle("miniature"))
        targets = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]
        for seed, name in enumerate(("fox", "owl")):
            config = LoraConfig(r=16, lora_alpha=16, target_modules=targets)
            self.model.transformer.add_adapter(config, adapter_name=name)
            source = torch.Generator().manual_seed(seed)
            for key, parameter in self.model.transformer.named_parameters():
                if f".{name}." in key:
                    parameter.data.copy_(torch.randn(parameter.shape, generator=source) * 0.05)

    def run(self, job: Job) -> dict[str, Any]:
        """The scene's latents (of rank 0), seconds of a step, bytes sent in one, and peak memory above the model's."""
        model, own = self.model, self.model.bundle
        model.bundle = own.model_copy(update=LARGE) if job.large else own
        scene = scene_of(job.overlap)
        regions = region_map(scene, model.grid, own.text_tokens)
        masks = {}
        if job.loras:
            masks = {r.entity: regions.token_mask(lambda o, r=r: o.entity == r.entity) for r in scene.regions}
        settings = RenderSettings(num_inference_steps=job.steps, guidance_scale=own.guidance_scale)
        execution = ExecutionPlan(
            device="cpu", dtype="float32", threads=1, guidance_degree=job.guidance, ulysses_degree=job.ulysses
        )
        try:
            with (
                parallel_scene(model, execution, job.rank, job.address) as parallel,
                region_loras(model.transformer, masks, parallel.sequence),
                bytes_sent() as sent,
            ):
                before = reset_peak()
                times = [time.perf_counter()]
                states = denoise(model, scene, 1, settings, parallel=parallel)
                for state in states:  # noqa: B007 (the last one is the result)
                    times.append(time.perf_counter())
                peak = peak_memory() - before
        finally:
            model.bundle = own
        seconds = min(b - a for a, b in itertools.pairwise(times))
        latents = state.latents.numpy() if job.rank == 0 else None
        frames = model.decode(state.latents).numpy() if job.decode and job.rank == 0 else None
        return {"latents": latents, "frames": frames, "seconds": seconds, "sent": sum(sent) // job.steps, "peak": peak}


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def reset_peak() -> int:
    """Forgets the process's peak memory; bytes resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_memory() -> int:
    return _status("VmHWM")


@contextmanager
def bytes_sent() -> Iterator[list[int]]:
    """Counts what this process gives to the others: of an all-to-all all but its own part, of an all-gather its part
    once to each."""
    sent: list[int] = []
    exchange, gather = dist.all_to_all_single, dist.all_gather

    def counted_exchange(received: torch.Tensor, given: torch.Tensor, group: Any = None) -> Any:
        members = dist.get_world_size(group)
        sent.append(given.numel() * given.element_size() * (members - 1) // members)
        return exchange(received, given, group=group)

    def counted_gather(parts: list[torch.Tensor], mine: torch.Tensor, group: Any = None) -> Any:
        sent.append(mine.numel() * mine.element_size() * (len(parts) - 1))
        return gather(parts, mine, group=group)

    dist.all_to_all_single, dist.all_gather = counted_exchange, counted_gather
    try:
        yield sent
    finally:
        dist.all_to_all_single, dist.all_gather = exchange, gather


def run(connections: list[Any], job: Job) -> list[dict[str, Any]]:
    """The job by as many workers as it takes."""
    return together(connections[: job.guidance * job.ulysses], job)


def picture(connections: list[Any]) -> int:
    """Draws docs/workers.png: a whole scene by one worker, by six (guidance 2 x Ulysses 3), and their difference, made
    AMPLIFIED times as large; the largest difference in grey levels."""
    whole = {"loras": True, "overlap": True, "steps": 25, "decode": True}
    one, six = (run(connections, Job(*split, **whole))[0]["frames"].astype(int) for split in ((1, 1), (2, 3)))
    difference = abs(one - six)
    strips = [np.concatenate(list(f[2::4]), 1) for f in (one, six, (difference * AMPLIFIED).clip(0, 255))]
    sheet = Image.fromarray(np.concatenate(strips).astype(np.uint8))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.LANCZOS).save(
        DOCS / "workers.png", optimize=True
    )
    return int(difference.max())


def main(steps: Annotated[int, typer.Option(min=2)] = 3) -> None:
    """Runs all cases, then the larger picture."""
    with console.status("starting six workers"):
        connections = start(6, Member)
        run(connections, Job(1, 6, steps=2))  # all are there
    kinds = [(loras, overlap) for loras in (False, True) for overlap in (False, True)]
    cases = []
    for loras, overlap in track(kinds, "cases", console=console):
        alone = run(connections, Job(1, 1, loras=loras, overlap=overlap, steps=steps))[0]["latents"]
        for guidance, ulysses in SPLITS:
            made = run(connections, Job(guidance, ulysses, loras=loras, overlap=overlap, steps=steps))[0]["latents"]
            difference = float(abs(made - alone).max() / abs(alone).max())
            case = {"workers": guidance * ulysses, "guidance": guidance, "ulysses": ulysses, "loras": loras}
            cases.append({**case, "overlap": overlap, "rel_diff": difference})
    large = {}
    for workers, (guidance, ulysses) in track(TIMED.items(), "the larger picture", console=console):
        large[workers] = run(connections, Job(guidance, ulysses, loras=True, overlap=True, large=True, steps=steps))
    sent = run(connections, Job(*SENT, loras=True, overlap=True, large=True, steps=2))
    with console.status("a whole scene by one and by six"):
        grey_levels = picture(connections)
    end(connections)
    grid = (LARGE["height"] // 8) * (LARGE["width"] // 8) * 6
    result = {
        "cases": cases,
        "largest_rel_diff": max(case["rel_diff"] for case in cases),
        "largest_grey_level": grey_levels,
        "visual_tokens": grid,
        "seconds": {str(n): round(large[n][0]["seconds"], 3) for n in (1, 2)},
        "speedup_of_2": round(large[1][0]["seconds"] / large[2][0]["seconds"], 3),
        "bytes_sent_per_step": sent[0]["sent"],
        "peak_rss_mb": {str(n): math.ceil(max(m["peak"] for m in made) / 2**20) for n, made in large.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
