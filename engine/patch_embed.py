"""CogVideoX's patch embedding for any number of text tokens.

The stock module adds one position table to a sequence of exactly `max_text_seq_length` text tokens, and builds that
table anew at each step when the clip's length is not the default. Several conditions need more text.
"""

from __future__ import annotations

import torch
from diffusers.models.embeddings import CogVideoXPatchEmbed


class RegionPatchEmbed(CogVideoXPatchEmbed):
    """Shares the weights of a stock `CogVideoXPatchEmbed`. Text positions are zero; visual positions are cached."""

    def __init__(self, stock: CogVideoXPatchEmbed) -> None:
        torch.nn.Module.__init__(self)
        if stock.patch_size_t is not None or stock.use_learned_positional_embeddings:
            raise ValueError(
                "CogVideoX 1.5 and image-to-video patch embeddings are not supported; use CogVideoX-2B or 5B"
            )
        for name, value in vars(stock).items():
            if not name.startswith("_"):
                setattr(self, name, value)
        self.proj, self.text_proj = stock.proj, stock.text_proj
        self.first_frame = 0  # of the latents given, in their clip: training shows the model short pieces of clips
        self._tables: dict[tuple[object, ...], torch.Tensor] = {}

    def forward(self, text_embeds: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """text (B, any length, text width) and latents (B, frames, channels, height, width) -> (B, tokens, C)."""
        batch, frames, _, height, width = image_embeds.shape
        text = self.text_proj(text_embeds)
        visual = self.proj(image_embeds.flatten(0, 1)).flatten(2).transpose(1, 2)
        visual = visual.reshape(batch, -1, visual.shape[-1])
        if self.use_positional_embeddings:
            visual = visual + self._positions(frames, height, width, visual)
        return torch.cat([text, visual], 1)

    def _positions(self, frames: int, height: int, width: int, like: torch.Tensor) -> torch.Tensor:
        first = self.first_frame
        key = (first, frames, height, width, like.device, like.dtype)
        if key not in self._tables:
            pixel_frames = (first + frames - 1) * self.temporal_compression_ratio + 1
            table = self._get_positional_embeddings(height, width, pixel_frames)[:, self.max_text_seq_length :]
            self._tables[key] = table.unflatten(1, (first + frames, -1))[:, first:].flatten(1, 2).to(like)
        return self._tables[key]
