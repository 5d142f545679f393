"""The same claims at full size: `make test-long`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from engine.attention import region_attention
from engine.plan import Box, Region, Scene
from engine.regions import Grid, region_map
from engine.textform import parse_text
from tests.engine.small import dense_mask

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

COGVIDEOX_2B = Grid(12, 30, 45)


def test_grouped_attention_at_cogvideox_2b() -> None:
    """16,200 visual tokens, four conditions of 226 text tokens, one head of 64, overlapping and moving boxes."""

    def boxes(x: float) -> dict[int, Box]:
        return {k: Box(x + 0.05 * k, 0.2, x + 0.3 + 0.05 * k, 0.9) for k in range(1, 7)}

    starts = {"fox": 0.0, "owl": 0.2, "pig": 0.35}
    regions = [Region(entity=e, motion="walks", caption=e, boxes=boxes(x)) for e, x in starts.items()]
    places = region_map(Scene(id="s", background="a forest", regions=tuple(regions)), COGVIDEOX_2B, 226)
    length = places.text_length + COGVIDEOX_2B.size
    assert length == 17_104
    q, k, v = (torch.randn(1, 1, length, 64, generator=torch.Generator().manual_seed(n)) for n in range(3))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=dense_mask(places))
    assert (region_attention(q, k, v, places) - expected).abs().max() <= 1e-5


def test_every_authors_plan_through_regions_and_attention(author_plans) -> None:
    grid = Grid(12, 10, 15)
    for name, text in author_plans:
        places = region_map(parse_text(text, name[:4]).scene, grid, 4)
        length = places.text_length + grid.size
        q, k, v = (torch.randn(1, 1, length, 8, generator=torch.Generator().manual_seed(n)) for n in range(3))
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=dense_mask(places))
        assert (region_attention(q, k, v, places) - expected).abs().max() <= 1e-5
