"""SR3AI's attention without a mask, against the usual way with one: `python -m benchmarks.attention [--frames 12]`.

One attention layer of CogVideoX-2B (30 heads of 64; 12 x 30 x 45 visual tokens, 226 text tokens to a condition) on this
CPU, with 4 and with 12 conditions. The baseline is torch's scaled_dot_product_attention with a ready boolean mask of
shape (1, 1, L, L); same inputs, dtype and threads, best of 5 in turn. The last line is one JSON object:

    speedup, speedup_bf16       the baseline's time / ours, by number of conditions (float32, bfloat16)
    fraction_of_unmasked        time of attention among the visual tokens alone, unmasked / ours (float32)
    flop_ratio                  our multiplications / the baseline's
    region_bytes                all that a scene's regions take in memory
    released_mask_bytes         what the released code's masks take: a boolean (L, L) in each of 30 blocks
    largest_temporary_bytes     of any tensor that ours makes on its way, its result aside
    max_abs_err                 largest difference to the baseline (float32)
    bf16_error_ratio            ours / the baseline, each against float64 on some of the heads (bfloat16)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

from engine.attention import region_attention
from engine.plan import KEYFRAMES, Box, Region, Scene
from engine.regions import Grid, RegionMap, region_map

HEADS, HEAD_DIM, TEXT_TOKENS, BLOCKS = 30, 64, 226, 30
ROUNDS = 5
REFERENCE_HEADS = 2  # float64 takes long
console = Console(stderr=True)


def scene_of(conditions: int) -> Scene:
    """Boxes of plans' usual size that move, some over each other, one of them in half of the keyframes; with the
    background `conditions` captions."""
    rng, regions = np.random.default_rng(conditions), []
    for n in range(conditions - 1):
        width, height = rng.uniform(0.2, 0.35, 2)
        x0, x1 = rng.uniform(0, 1 - width, 2)
        y = rng.uniform(0, 1 - height)
        steps = enumerate(np.linspace(x0, x1, KEYFRAMES), 1)
        boxes = {k: Box(float(x), float(y), float(x + width), float(y + height)) for k, x in steps}
        if n == 1:
            boxes = {k: box for k, box in boxes.items() if k <= KEYFRAMES // 2}
        regions.append(Region(entity=f"actor {n}", motion="moves", caption=f"actor {n} moves", boxes=boxes))
    return Scene(id="bench", background="somewhere", regions=tuple(regions))


def dense_mask(regions: RegionMap) -> torch.Tensor:
    """The released way: bool (1, 1, L, L)."""
    text = regions.text_length
    mask = torch.zeros(text + regions.grid.size, text + regions.grid.size, dtype=torch.bool)
    mask[text:, text:] = True
    for n, heard in enumerate(regions.heard):
        own = slice(n * regions.text_tokens, (n + 1) * regions.text_tokens)
        mask[own, own] = True
        mask[own, text:] = heard
        mask[text:, own] = heard[:, None]
    return mask[None, None]


class LargestTensor(TorchDispatchMode):
    """Notes the largest storage that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        for made in out if isinstance(out, tuple) else (out,):
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:
                self.bytes.append(made.untyped_storage().nbytes())
        return out


def best(ways: dict[str, Callable[[], torch.Tensor]], what: str) -> dict[str, float]:
    """Seconds of each, the best of ROUNDS; in turn, so that all see the same machine."""
    seconds = dict.fromkeys(ways, float("inf"))
    with console.status(what) as status:
        for n in range(ROUNDS):
            for name, way in ways.items():
                status.update(f"{what}: round {n + 1} of {ROUNDS}, {name}")
                began = time.perf_counter()
                way()
                seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds


def multiplications(regions: RegionMap) -> float:
    """Pairs of tokens that ours multiplies / those of a dense mask."""
    visual, width = regions.grid.size, regions.text_tokens
    pairs = sum((g.end - g.start) * (visual + len(g.conditions) * width) for g in regions.groups)
    pairs += sum(width * (width + len(heard)) for heard in regions.listeners)
    return pairs / (visual + regions.text_length) ** 2


def region_bytes(regions: RegionMap) -> int:
    tensors = [regions.heard, regions.order, regions.inverse_order, *regions.listeners]
    tensors += [tokens for _, _, tokens in regions.regions]
    return sum(t.numel() * t.element_size() for t in tensors)


def bf16_error_ratio(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, regions: RegionMap, mask: torch.Tensor
) -> float:
    """Root mean square error of ours in bfloat16 / that of the masked kernel, both against float64."""
    q, k, v = (x[:, :REFERENCE_HEADS].bfloat16() for x in (q, k, v))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask)
    ours = (region_attention(q, k, v, regions).double() - exact).square().mean()
    plain = (F.scaled_dot_product_attention(q, k, v, attn_mask=mask).double() - exact).square().mean()
    return float((ours / plain).sqrt())


@torch.no_grad()
def measure(conditions: int, frames: int) -> dict[str, Any]:
    grid = Grid(frames, 30, 45)
    regions = region_map(scene_of(conditions), grid, TEXT_TOKENS)
    mask = dense_mask(regions)
    torch.manual_seed(conditions)
    q, k, v = (torch.randn(1, HEADS, len(mask[0, 0]), HEAD_DIM) for _ in range(3))
    text = regions.text_length
    seconds, result = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b, c = (x.to(dtype) for x in (q, k, v))
        x, y, z = (x[:, :, text:].contiguous() for x in (a, b, c))
        ways = {
            "mask": lambda a=a, b=b, c=c: F.scaled_dot_product_attention(a, b, c, attn_mask=mask),
            "ours": lambda a=a, b=b, c=c: region_attention(a, b, c, regions),
        }
        if dtype is torch.float32:
            ways["unmasked"] = lambda x=x, y=y, z=z: F.scaled_dot_product_attention(x, y, z)
            result["max_abs_err"] = float((ways["mask"]() - ways["ours"]()).abs().max())
            with LargestTensor() as largest:
                out = ways["ours"]()
            made = sorted(largest.bytes)
            made.remove(out.untyped_storage().nbytes())
            result["largest_temporary_bytes"] = made[-1]
        seconds[dtype] = best(ways, f"{conditions} conditions, {str(dtype)[6:]}")
    f32, bf16 = seconds[torch.float32], seconds[torch.bfloat16]
    return {
        **result,
        "speedup": round(f32["mask"] / f32["ours"], 3),
        "speedup_bf16": round(bf16["mask"] / bf16["ours"], 3),
        "fraction_of_unmasked": round(f32["unmasked"] / f32["ours"], 3),
        "flop_ratio": round(multiplications(regions), 4),
        "region_bytes": region_bytes(regions),
        "released_mask_bytes": BLOCKS * mask.numel(),
        "bf16_error_ratio": round(bf16_error_ratio(q, k, v, regions, mask), 3),
        "groups": len(regions.groups),
        "seconds": {name: round(value, 3) for name, value in f32.items()},
    }


def main(
    frames: Annotated[int, typer.Option(min=1, help="latent frames; the paper's clip has 12")] = 12,
    threads: Annotated[int, typer.Option(min=0, help="0: all cores")] = 0,
) -> None:
    """Measures both numbers of conditions."""
    if threads:
        torch.set_num_threads(threads)
    measured = {str(n): measure(n, frames) for n in (4, 12)}
    result: dict[str, Any] = {key: {n: m[key] for n, m in measured.items()} for key in measured["4"]}
    result["max_abs_err"] = max(result["max_abs_err"].values())
    print(json.dumps({"frames": frames, "threads": torch.get_num_threads(), **result}))


if __name__ == "__main__":
    typer.run(main)
