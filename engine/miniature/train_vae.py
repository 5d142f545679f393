"""Trains the miniature's video VAE: `python -m engine.miniature.train_vae`. Interrupted, the same command goes on.

After ENCODER_UNTIL_MINUTES its latents are evened out (`even_latents.py`); the encoder stays as it is from then on and
the decoder alone is trained, on latents with a little noise, such as a video model gives. So what a video model learned
on the encoder's latents stays valid.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLCogVideoX
from torch.utils.data import DataLoader, IterableDataset

from engine.miniature import words
from engine.miniature.even_latents import even_out, is_even, latent_moments
from engine.miniature.settings import ENCODER_UNTIL_MINUTES, LATENT_CHANNELS, VAE_TRAINING, VIDEO
from engine.miniature.stages import HEIGHT, WIDTH
from engine.miniature.trainer import Trainer, arithmetic
from engine.miniature.world import random_clip

DECODER_NOISE = 0.1  # of the latents' standard deviation, at most


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


@torch.no_grad()
def _fix_encoder(trainer: Trainer) -> None:
    """The encoder becomes its average, which is what is published. Uneven latents are evened out first, once: after
    that a resumed training finds them even and keeps its moments."""
    vae = build_vae()
    vae.load_state_dict(trainer.ema)
    clips = (random_clip(np.random.default_rng((VAE_TRAINING.seed, 17, n)), actors=1 + n % 3) for n in range(150))
    moments = latent_moments(vae, clips)
    if not is_even(moments[1]):
        even_out(vae, *moments)
        trainer.restart(dict(vae.named_parameters()))
    for key, value in trainer.parameters.items():
        if key.startswith("encoder."):
            value.copy_(trainer.ema[key])
            value.requires_grad_(False)


def main() -> None:
    torch.manual_seed(VAE_TRAINING.seed)
    vae = build_vae()
    weights = VIDEO / "vae" / "diffusion_pytorch_model.safetensors"
    trainer = Trainer("vae", vae, VAE_TRAINING, {"": weights})
    batches = iter(DataLoader(Crops(trainer.step), batch_size=None, num_workers=1, prefetch_factor=4))

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        video, weight = next(batches)
        torch.manual_seed(step)
        frozen = trainer.minutes >= ENCODER_UNTIL_MINUTES
        if frozen and next(vae.encoder.parameters()).requires_grad:
            _fix_encoder(trainer)
        with arithmetic():
            posterior = vae.encode(video).latent_dist
            latents = posterior.sample()
            if frozen:
                latents = latents + torch.rand(()) * DECODER_NOISE * latents.std() * torch.randn_like(latents)
            output = vae.decode(latents).sample
        if frozen:  # a stage is easy
            weight = 2 * weight - 1
        output, mean, logvar = output.float(), posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        mse = F.mse_loss(output, video).detach()
        total = reconstruction_loss(video, output, weight) + 1e-3 * divergence
        return total, {"psnr_db": float(10 * torch.log10(4 / mse)), "kl": float(divergence)}

    def publish(ema: dict[str, torch.Tensor]) -> None:
        published = build_vae()
        published.load_state_dict(ema)
        if trainer.minutes > ENCODER_UNTIL_MINUTES:  # the latents' size, which the video model's training measured
            scaling = AutoencoderKLCogVideoX.load_config(VIDEO / "vae")["scaling_factor"]
            published.register_to_config(scaling_factor=scaling)
        published.bfloat16().save_pretrained(VIDEO / "vae")

    trainer.run(loss, publish)


if __name__ == "__main__":
    main()
