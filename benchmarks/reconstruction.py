"""How well the miniature's VAE keeps clips it has not seen: `python -m benchmarks.reconstruction [--clips N]`.

Last line: {"clips": N, "vae_psnr_db": over all pixels, "actors_psnr_db": over the actors' pixels}
"""

from __future__ import annotations

import json
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderKLCogVideoX
from rich.progress import track

from engine.miniature import words
from engine.miniature.settings import VIDEO
from engine.miniature.world import random_clip


def main(clips: Annotated[int, typer.Option(min=1)] = 24) -> None:
    """Encodes and decodes clips of the whole world, library-only motions and new characters included."""
    vae = AutoencoderKLCogVideoX.from_pretrained(VIDEO / "vae", torch_dtype=torch.float32)
    errors, actors_errors = [], []
    for n in track(range(clips), description="clips"):
        clip = random_clip(np.random.default_rng((99, n)), tuple(words.CHARACTERS), words.MOTIONS, actors=1 + n % 3)
        video = torch.from_numpy(clip.frames).permute(3, 0, 1, 2).float()[None] / 127.5 - 1
        with torch.no_grad():
            output = vae.decode(vae.encode(video).latent_dist.mode()).sample.clamp(-1, 1)
        error = (output - video)[0].square().mean(0)
        errors.append(error.flatten())
        actors_errors.append(error[torch.from_numpy(np.any([a.masks for a in clip.actors], 0))])

    def psnr(parts: list[torch.Tensor]) -> float:
        return round(float(10 * torch.log10(4 / torch.cat(parts).mean())), 2)

    print(json.dumps({"clips": clips, "vae_psnr_db": psnr(errors), "actors_psnr_db": psnr(actors_errors)}))


if __name__ == "__main__":
    typer.run(main)
