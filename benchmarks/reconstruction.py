"""How well the miniature's VAE keeps clips it has not seen: `python -m benchmarks.reconstruction [--clips N]`.

Last line: {"clips": N, "vae_psnr_db": over all pixels, "actors_psnr_db": over the actors' pixels}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderKLCogVideoX
from rich.progress import track

from engine.miniature import words
from engine.miniature.settings import VIDEO
from engine.miniature.world import random_clip


@torch.no_grad()
def through_vae(clips: Sequence[np.ndarray], video: Path) -> list[np.ndarray]:
    """Clips uint8 (T, H, W, 3), encoded and decoded by the VAE of a pipeline's folder."""
    vae = AutoencoderKLCogVideoX.from_pretrained(video / "vae", torch_dtype=torch.float32)
    made = []
    for frames in track(clips, description="through the VAE"):
        x = torch.from_numpy(frames).permute(3, 0, 1, 2).float()[None] / 127.5 - 1
        output = vae.decode(vae.encode(x).latent_dist.mode()).sample[0].clamp(-1, 1)
        made.append(((output.permute(1, 2, 3, 0) + 1) * 127.5).round().to(torch.uint8).numpy())
    return made


def psnr(true: Sequence[np.ndarray], made: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None = None) -> float:
    """Peak signal-to-noise ratio in dB over all pixels, or over those of the masks (T, H, W)."""
    errors = [np.square(a.astype(np.float32) - b).mean(-1) for a, b in zip(true, made, strict=True)]
    chosen = [e[mask] for e, mask in zip(errors, masks, strict=True)] if masks else [e.ravel() for e in errors]
    return round(float(10 * np.log10(255**2 / np.concatenate(chosen).mean())), 2)


def main(clips: Annotated[int, typer.Option(min=1)] = 24) -> None:
    """Encodes and decodes clips of the whole world, library-only motions and new characters included."""
    made = [
        random_clip(np.random.default_rng((99, n)), tuple(words.CHARACTERS), words.MOTIONS, actors=1 + n % 3)
        for n in range(clips)
    ]
    true = [clip.frames for clip in made]
    seen = through_vae(true, VIDEO)
    masks = [np.any([actor.masks for actor in clip.actors], 0) for clip in made]
    figures = {"vae_psnr_db": psnr(true, seen), "actors_psnr_db": psnr(true, seen, masks)}
    print(json.dumps({"clips": clips, **figures}))


if __name__ == "__main__":
    typer.run(main)
