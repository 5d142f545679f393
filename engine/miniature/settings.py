"""All settings of the miniature's training in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BUNDLE = HERE / "bundle"  # the model bundle that the engine loads
VIDEO = BUNDLE / "video"  # the pipeline, in diffusers' folder format
CURVES = HERE / "curves"  # one JSON line per logged step, kept in the repository
TRAINING = HERE / ".training"  # exact training state and cached latents; may be deleted

LATENT_CHANNELS = 8
TEXT_TOKENS = 32  # of each condition, padding included
TEXT_WIDTH = 128
HEADS, HEAD_DIM, LAYERS = 6, 48, 6  # 6 heads: 1, 2, 3 and 6 workers divide them


@dataclass(frozen=True)
class TrainingSettings:
    """`minutes` is the whole budget: the learning rate falls from `lr` to 3 % of it along a cosine over that time."""

    minutes: float
    lr: float
    batch: int
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    ema: float = 0.995
    clip_norm: float = 1.0
    muon: bool = False  # Muon for the matrices of the transformer's blocks, AdamW for the rest
    save_every_minutes: float = 4.0
    seed: int = 0


VAE_TRAINING = TrainingSettings(minutes=79, lr=2e-3, batch=2, ema=0.995)
VIDEO_TRAINING = TrainingSettings(minutes=90, lr=3e-3, batch=10, ema=0.998, muon=True, seed=1)
ENCODER_UNTIL_MINUTES = 75  # then the VAE's decoder alone is trained
PIECE_UNTIL_MINUTES = 54  # until then the video model is trained on pieces of two latent frames, three times as many
MAX_CONDITIONS = 4  # of a training sample; each is TEXT_TOKENS long
CACHED_CLIPS = 3500  # clips whose latents the video model is trained on
