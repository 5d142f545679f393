"""From a scene's boxes to tokens: which words each visual token hears, and where each LoRA acts (paper, section 3.3).

Invariants:
- tokens are numbered frame, row, column; the sequence is [condition 0 | ... | condition n-1 | visual tokens], each
  condition `text_tokens` long;
- conditions are the distinct captions in order of first appearance, the background last;
- every visual token hears at least one condition: its boxes' captions, or the background where it lies in no box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from engine.plan import KEYFRAMES, Box, Region, Scene


class Grid(NamedTuple):
    """The visual tokens of a clip: latent frames, rows and columns of patches."""

    frames: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        return self.frames * self.rows * self.columns


class Group(NamedTuple):
    """Visual tokens [start, end) of the grouped order, all of which hear exactly these conditions."""

    start: int
    end: int
    conditions: tuple[int, ...]


def box_tokens(box: Box, grid: Grid) -> tuple[slice, slice]:
    """Rows and columns of the box: its edges rounded to the patch grid, never less than one patch."""

    def span(low: float, high: float, size: int) -> slice:
        first = min(int(low * size + 0.5), size - 1)
        return slice(first, max(int(high * size + 0.5), first + 1))

    return span(box.top, box.bottom, grid.rows), span(box.left, box.right, grid.columns)


def keyframe_of(latent_frame: int, frames: int) -> int:
    """The keyframe 1..6 that a latent frame belongs to: with 12 latent frames, keyframe i covers 2i-2 and 2i-1."""
    return latent_frame * KEYFRAMES // frames + 1


def region_tokens(region: Region, grid: Grid) -> torch.Tensor:
    """The region's place in space and time, bool (frames * rows * columns)."""
    mask = torch.zeros(grid, dtype=torch.bool)
    for frame in range(grid.frames):
        if box := region.boxes.get(keyframe_of(frame, grid.frames)):
            mask[frame][box_tokens(box, grid)] = True
    return mask.flatten()


@dataclass(frozen=True, eq=False)
class RegionMap:
    """Who hears what in one scene.

    `captions`: n conditions. `heard`: bool (n, visual), whether visual token i hears condition c. `regions`: for each
    region of the plan its entity, motion, condition and tokens, by which LoRAs are bound.
    """

    grid: Grid
    text_tokens: int
    captions: tuple[str, ...]
    heard: torch.Tensor
    regions: tuple[tuple[Region, int, torch.Tensor], ...] = ()

    @property
    def text_length(self) -> int:
        """Text tokens of all conditions together."""
        return len(self.captions) * self.text_tokens

    @cached_property
    def _grouping(self) -> tuple[torch.Tensor, tuple[Group, ...]]:
        # one integer per token, its bits the conditions: equal integers form a group
        patterns, index, counts = torch.unique(self.heard.T, dim=0, return_inverse=True, return_counts=True)
        order = torch.argsort(index, stable=True)
        groups, start = [], 0
        for pattern, count in zip(patterns, counts.tolist(), strict=True):
            groups.append(Group(start, start + count, tuple(pattern.nonzero().flatten().tolist())))
            start += count
        return order, tuple(groups)

    @property
    def order(self) -> torch.Tensor:
        """Visual tokens in grouped order: int64 (visual)."""
        return self._grouping[0]

    @property
    def groups(self) -> tuple[Group, ...]:
        return self._grouping[1]

    @cached_property
    def inverse_order(self) -> torch.Tensor:
        """Undoes `order`: x[order][inverse_order] == x."""
        return torch.argsort(self.order)

    @cached_property
    def listeners(self) -> tuple[torch.Tensor, ...]:
        """For each condition the visual tokens that hear it, which are also those that its text attends to: int64."""
        return tuple(row.nonzero().flatten() for row in self.heard)

    def token_mask(self, acts: Callable[[Region], bool]) -> torch.Tensor:
        """Where a LoRA acts that is bound to the regions for which `acts` is true: float32 0/1 of shape
        (text_length + visual, 1), one over those regions' visual tokens and their captions' text (method: m_j,
        clamped to 1 where regions overlap)."""
        mask = torch.zeros(self.text_length + self.grid.size, 1)
        for region, condition, tokens in self.regions:
            if acts(region):
                mask[condition * self.text_tokens : (condition + 1) * self.text_tokens] = 1
                mask[self.text_length :][tokens] = 1
        return mask

    def to(self, device: torch.device | str) -> RegionMap:
        """The same map with its tensors on a device."""
        if self.heard.device == torch.device(device):
            return self
        regions = tuple((r, c, tokens.to(device)) for r, c, tokens in self.regions)
        return RegionMap(self.grid, self.text_tokens, self.captions, self.heard.to(device), regions)


def region_map(scene: Scene, grid: Grid, text_tokens: int) -> RegionMap:
    """The scene's conditions and their regions on a token grid."""
    captions = list(dict.fromkeys(region.caption for region in scene.regions))
    places = [(region, captions.index(region.caption), region_tokens(region, grid)) for region in scene.regions]
    heard = torch.zeros(len(captions) + 1, grid.size, dtype=torch.bool)
    for _, condition, tokens in places:
        heard[condition] |= tokens
    heard[-1] = ~heard[:-1].any(0)
    return RegionMap(grid, text_tokens, (*captions, scene.background), heard, tuple(places))
