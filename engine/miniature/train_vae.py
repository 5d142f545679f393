"""Trains the miniature's video VAE: `python -m engine.miniature.train_vae`. Interrupted, the same command goes on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLCogVideoX
from torch.utils.data import DataLoader, IterableDataset

from engine.miniature import words
from engine.miniature.settings import LATENT_CHANNELS, VAE_TRAINING, VIDEO
from engine.miniature.stages import HEIGHT, WIDTH
from engine.miniature.trainer import Trainer
from engine.miniature.world import random_clip


def build_vae() -> AutoencoderKLCogVideoX:
    """CogVideoX's VAE with three small blocks: 4x4 in space, 4 in time."""
    return AutoencoderKLCogVideoX(
        block_out_channels=(16, 32, 64),
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        temporal_compression_ratio=4,
        sample_height=HEIGHT,
        sample_width=WIDTH,
    )


class Crops(IterableDataset):
    """Batches of 8-frame pieces of random clips of the whole world (the VAE knows every sprite), from a first step on.

    Yields (B, 3, 8, H, W) float32 in [-1, 1] and weights (B, 1, 8, H, W): actors count more than stage. Every fourth
    batch is one piece of 24 frames instead, so that the VAE's carry over time is trained too.
    """

    def __init__(self, first_step: int) -> None:
        self.first_step = first_step

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        step = self.first_step
        while True:
            rng = np.random.default_rng((VAE_TRAINING.seed, 7, step))
            length, count = (24, 1) if step % 4 == 3 else (8, VAE_TRAINING.batch)
            videos, weights = [], []
            for _ in range(count):
                motions = words.MOTIONS if rng.random() < 0.6 else words.BASE_MOTIONS
                clip = random_clip(rng, tuple(words.CHARACTERS), motions)
                start = int(rng.integers(0, 24 - length + 1))
                frames = torch.from_numpy(clip.frames[start : start + length].copy())
                videos.append(frames.permute(3, 0, 1, 2).float() / 127.5 - 1)
                masks = np.zeros(clip.frames.shape[:3], bool)
                for actor in clip.actors:
                    masks |= actor.masks
                weights.append(1 + 3 * torch.from_numpy(masks[start : start + length]).float()[None])
            yield torch.stack(videos), torch.stack(weights)
            step += 1


def reconstruction_loss(video: torch.Tensor, output: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """L1 + L2 on pixels, and L1 on differences to the right, below and in time, which keeps edges and motion sharp."""
    error = output - video
    loss = (weight * (error.abs() + error.square())).sum() / (weight.sum() * 3)
    for axis in (2, 3, 4):
        loss = loss + 0.25 * error.diff(dim=axis).abs().mean()
    return loss


def main() -> None:
    torch.manual_seed(VAE_TRAINING.seed)
    vae = build_vae()
    weights = VIDEO / "vae" / "diffusion_pytorch_model.safetensors"
    trainer = Trainer("vae", vae, VAE_TRAINING, {"": weights})
    batches = iter(DataLoader(Crops(trainer.step), batch_size=None, num_workers=1, prefetch_factor=4))

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        video, weight = next(batches)
        torch.manual_seed(step)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(video).latent_dist
            output = vae.decode(posterior.sample()).sample
        output, mean, logvar = output.float(), posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        mse = F.mse_loss(output, video).detach()
        total = reconstruction_loss(video, output, weight) + 1e-3 * divergence
        return total, {"psnr_db": float(10 * torch.log10(4 / mse)), "kl": float(divergence)}

    def publish(ema: dict[str, torch.Tensor]) -> None:
        published = build_vae()
        published.load_state_dict(ema)
        published.bfloat16().save_pretrained(VIDEO / "vae")

    trainer.run(loss, publish)


if __name__ == "__main__":
    main()
