"""All settings of the miniature's training in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BUNDLE = HERE / "bundle"  # the model bundle that the engine loads
VIDEO = BUNDLE / "video"  # the pipeline, in diffusers' folder format
CURVES = HERE / "curves"  # one JSON line per logged step, kept in the repository
TRAINING = HERE / ".training"  # exact training state and cached latents; may be deleted

LATENT_CHANNELS = 16
TEXT_TOKENS = 32  # of each condition, padding included
TEXT_WIDTH = 128
HEADS, HEAD_DIM, LAYERS = 6, 32, 6  # 6 heads: 1, 2, 3 and 6 workers divide them


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
    save_every_minutes: float = 4.0
    seed: int = 0


VAE_TRAINING = TrainingSettings(minutes=75, lr=2e-3, batch=2, ema=0.995)
VIDEO_TRAINING = TrainingSettings(minutes=173, lr=1.2e-3, batch=8, ema=0.998, seed=1)
PIECE_UNTIL_MINUTES = 116  # until then the video model is trained on pieces of two latent frames, three times as many
MAX_CONDITIONS = 4  # of a training sample; each is TEXT_TOKENS long
CACHED_CLIPS = 4000  # clips whose latents the video model is trained on
