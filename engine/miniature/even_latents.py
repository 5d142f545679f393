"""Rotates and scales a trained VAE's latents so that every channel counts, without changing what the VAE does.

A trained VAE puts most of the variance into two or three directions, brightness and colour, and the details of an actor
into many small ones. A diffusion model's noise drowns the small ones until the very last steps, and its loss hardly
counts them. Here the latents are turned to their principal directions, and each is scaled so that the variances come
near each other; the encoder's last convolution and the decoder's first layers take up the change.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX

from engine.miniature.world import Clip

POWER = 0.375  # of a direction's variance v, which becomes v ** (1 - 2 * POWER): 0.5 would make them all equal
ACTORS = 4.0  # what an actor's latent cell counts more than the stage's
UNEVEN = 8.0  # largest variance over smallest, above which latents are not even


@torch.no_grad()
def latent_moments(vae: AutoencoderKLCogVideoX, clips: Iterable[Clip]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (channels,) and covariance (channels, channels) of the latents of true clips, the actors' cells weighted."""
    latents, weights = [], []
    for clip in clips:
        video = torch.from_numpy(clip.frames).permute(3, 0, 1, 2).float()[None] / 127.5 - 1
        mask = np.any([actor.masks for actor in clip.actors], 0).astype(np.float32)
        cells = torch.nn.functional.avg_pool3d(torch.from_numpy(mask)[None], 4)[0]
        latents.append(vae.encode(video).latent_dist.mode()[0].flatten(1).T)
        weights.append(1 + ACTORS * cells.flatten())
    x, w = torch.cat(latents), torch.cat(weights)[:, None]
    mean = (x * w).sum(0) / w.sum()
    return mean, ((x - mean) * w).T @ (x - mean) / w.sum()


def is_even(covariance: torch.Tensor) -> bool:
    """Whether no direction of the latents is much smaller than another."""
    variances = torch.linalg.eigvalsh(covariance)
    return bool(variances[-1] <= UNEVEN * variances[0])


@torch.no_grad()
def even_out(vae: AutoencoderKLCogVideoX, mean: torch.Tensor, covariance: torch.Tensor) -> None:
    """Rewrites the VAE in place: new latents = A (latents - mean), and the decoder reads them through A's inverse.

    What it decodes stays the same, but for the padding at the borders, which knew the old mean.
    """
    variances, directions = torch.linalg.eigh(covariance)
    size = variances.clamp_min(1e-8) ** -POWER
    a, back = size[:, None] * directions.T, directions / size[None]
    channels = len(mean)
    last = vae.encoder.conv_out.conv
    kernel, bias = last.weight.clone(), last.bias.clone()
    turned = [torch.einsum("oi,i...->o...", m, kernel[part]) for m, part in _halves(a, directions, channels)]
    last.weight.copy_(torch.cat(turned))
    logvar = (directions.T**2) @ bias[channels:] + 2 * size.log()
    last.bias.copy_(torch.cat([a @ (bias[:channels] - mean), logvar]))
    for layer in decoder_inputs(vae):
        layer.bias += layer.weight.flatten(2).sum(2) @ mean
        layer.weight.copy_(torch.einsum("oi...,ic->oc...", layer.weight, back))


def _halves(a: torch.Tensor, directions: torch.Tensor, channels: int) -> list[tuple[torch.Tensor, slice]]:
    """The encoder's last layer gives means, which are turned and scaled, and then logarithms of variances."""
    return [(a, slice(channels)), (directions.T**2, slice(channels, None))]


def decoder_inputs(vae: AutoencoderKLCogVideoX) -> list[torch.nn.Conv3d]:
    """The decoder's layers that read latents: its first convolution, and the two of every spatial norm."""
    norms = [m for name, m in vae.decoder.named_modules() if name.endswith((".conv_y.conv", ".conv_b.conv"))]
    return [vae.decoder.conv_in.conv, *norms]
