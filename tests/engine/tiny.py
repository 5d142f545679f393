"""A video model with few random weights, and what priors are learned from in tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler
from PIL import Image

from engine.adapters import ResidentLoras
from engine.encodings import Encodings
from engine.models import PriorSettings, load_bundle
from engine.priors import TrainingClip
from engine.video_model import VideoModel, prepare_transformer
from tests.engine.small import TEXT_TOKENS, tiny_transformer

SETTINGS = PriorSettings(rank=4, steps=4, subject_steps=3, learning_rate=1e-2, batch=2, dropout=0.1, ema=0.5)


class TinyModel(VideoModel):
    """A video model with few random weights, whose text encoder is a table of random vectors."""

    def __init__(self) -> None:
        self.bundle = load_bundle("miniature").model_copy(
            update={"height": 40, "width": 56, "num_frames": 24, "text_tokens": TEXT_TOKENS, "words": None}
        )
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.transformer = prepare_transformer(tiny_transformer(layers=4))
        self.vae = AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 3, up_block_types=("CogVideoXUpBlock3D",) * 3,
            block_out_channels=(4, 4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        )  # fmt: skip
        self.vae.requires_grad_(False).eval()
        self.scheduler_config = CogVideoXDPMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True
        ).config
        self.loras = ResidentLoras(self.transformer, base=self.bundle.base)
        self.encodings = Encodings("tiny")

    def encode_texts(self, captions: Iterable[str]) -> list[torch.Tensor]:
        seeds = [int.from_bytes(hashlib.sha256(caption.encode()).digest()[:4]) for caption in captions]
        return [torch.randn(1, TEXT_TOKENS, 12, generator=torch.Generator().manual_seed(seed)) for seed in seeds]


def clips(count: int = 3) -> list[TrainingClip]:
    rng = np.random.default_rng(1)
    return [TrainingClip(f"c{n}", f"a thing {n}", rng.integers(0, 256, (8, 40, 56, 3), np.uint8)) for n in range(count)]


def sprite(size: int = 40) -> Image.Image:
    """A red disc on nothing."""
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    inside = x**2 + y**2 < (size / 2) ** 2
    return Image.fromarray(np.where(inside[..., None], [255, 0, 0, 255], [0, 0, 0, 0]).astype(np.uint8))
