"""Small random models and regions for tests."""

from __future__ import annotations

import torch
from diffusers import CogVideoXTransformer3DModel
from hypothesis import strategies as st

from engine.plan import KEYFRAMES, Box, Region, Scene
from engine.regions import Grid, RegionMap, region_map

GRID = Grid(6, 5, 7)
TEXT_TOKENS = 4


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Scenes with overlaps, captions used twice, regions that come and go, boxes over everything, or none at all."""
    span = st.lists(st.integers(0, 10), min_size=2, max_size=2, unique=True).map(lambda e: [n / 10 for n in sorted(e)])
    box = st.builds(lambda x, y: Box(x[0], y[0], x[1], y[1]), span, span)
    regions = draw(
        st.lists(
            st.builds(
                Region,
                entity=st.sampled_from(["fox", "owl", "pig"]),
                motion=st.sampled_from(["walks", "jumps"]),
                caption=st.sampled_from(["a", "b", "c", "d"]),
                boxes=st.dictionaries(st.integers(1, KEYFRAMES), box, min_size=1),
            ),
            max_size=5,
        )
    )
    return Scene(id="s", background="somewhere", regions=tuple(regions))


def dense_mask(regions: RegionMap) -> torch.Tensor:
    """The reference: bool (L, L), who may attend to whom, written down pair by pair as the paper says it."""
    n, width = len(regions.captions), regions.text_tokens
    text, length = n * width, n * width + regions.grid.size
    mask = torch.zeros(length, length, dtype=torch.bool)
    mask[text:, text:] = True
    for c in range(n):
        own = slice(c * width, (c + 1) * width)
        mask[own, own] = True
        mask[own, text:] = regions.heard[c]
        mask[text:, own] = regions.heard[c][:, None]
    return mask


def tiny_transformer(rotary: bool = False, layers: int = 2, **config: int) -> CogVideoXTransformer3DModel:
    """CogVideoX's architecture with few random weights."""
    torch.manual_seed(0)
    sizes = {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8,
        "text_embed_dim": 12, "max_text_seq_length": TEXT_TOKENS, "sample_height": GRID.rows * 2,
        "sample_width": GRID.columns * 2, "sample_frames": 21,
    }  # fmt: skip
    model = CogVideoXTransformer3DModel(
        num_layers=layers, use_rotary_positional_embeddings=rotary, **{**sizes, **config}
    )
    with torch.no_grad():  # zero-initialised parts would hide mistakes
        for parameter in model.parameters():
            if parameter.abs().sum() == 0:
                parameter.normal_(std=0.05)
    return model.eval().requires_grad_(False)


def small_map(scene: Scene, grid: Grid = GRID) -> RegionMap:
    return region_map(scene, grid, TEXT_TOKENS)
