"""Evening out latents: what the VAE does stays, its channels become alike."""

from __future__ import annotations

import numpy as np
import torch

from engine.miniature.even_latents import decoder_inputs, even_out, is_even, latent_moments
from engine.miniature.train_vae import build_vae
from engine.miniature.world import random_clip


def test_latents_become_even_and_decode_to_the_same() -> None:
    torch.manual_seed(0)
    vae = build_vae().eval()
    with torch.no_grad():  # as uneven as a trained one
        scale = torch.logspace(1, -1, vae.config.latent_channels)
        vae.encoder.conv_out.conv.weight[: len(scale)] *= scale.view(-1, 1, 1, 1, 1) * 10
    clips = [random_clip(np.random.default_rng(n), actors=1) for n in range(4)]
    video = torch.from_numpy(clips[0].frames).permute(3, 0, 1, 2).float()[None] / 127.5 - 1
    with torch.no_grad():  # with a mean of 0 the zeros of the decoder's padding mean the same before and after
        vae.encoder.conv_out.conv.bias[: len(scale)] -= latent_moments(vae, clips)[0]
    mean, covariance = latent_moments(vae, clips)
    assert not is_even(covariance)
    with torch.no_grad():
        before = vae.decode(vae.encode(video).latent_dist.mode()).sample
        even_out(vae, mean, covariance)
        after = vae.decode(vae.encode(video).latent_dist.mode()).sample
    assert torch.allclose(after, before, atol=1e-3 * float(before.std()), rtol=1e-3)
    mean, turned = latent_moments(vae, clips)
    assert mean.abs().max() < 1e-2
    assert torch.allclose(turned.diagonal(), torch.linalg.eigvalsh(covariance) ** 0.25, rtol=2e-2)
    off = turned - torch.diag(turned.diagonal())
    assert off.abs().max() < 2e-2 * turned.diagonal().max()


def test_every_layer_that_reads_latents_is_turned() -> None:
    vae = build_vae()
    width = vae.config.latent_channels
    assert all(layer.in_channels == width for layer in decoder_inputs(vae))
    assert len(decoder_inputs(vae)) == 1 + 2 * sum(
        type(module).__name__ == "CogVideoXSpatialNorm3D" for module in vae.decoder.modules()
    )
