"""All settings of the miniature's training in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

# Where trainings read and write; on a cluster a folder that all workers see.
HOME = Path(os.environ.get("DREAMRUNNER_MINIATURE", Path(__file__).parent))
BUNDLE = HOME / "bundle"  # the model bundle that the engine loads
VIDEO = BUNDLE / "video"  # the pipeline, in diffusers' folder format
PLAIN = HOME / "plain" / "video"  # the same for the bundle whose video model has never seen a region
CURVES = HOME / "curves"  # one JSON line per logged step, kept in the repository
TRAINING = HOME / ".training"  # exact training state and cached latents; may be deleted

LATENT_CHANNELS = 8
TEXT_TOKENS = 32  # of each condition, padding included
TEXT_WIDTH = 128
HEADS, HEAD_DIM, LAYERS = 6, 48, 6  # 6 heads: 1, 2, 3 and 6 workers divide them


class Checkpoint(StrEnum):
    """The miniature's two video models."""

    plain = "plain"
    default = "default"


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
VIDEO_TRAININGS = {
    Checkpoint.plain: TrainingSettings(minutes=55, lr=3e-3, batch=10, ema=0.998, muon=True, seed=1),
    Checkpoint.default: TrainingSettings(minutes=160, lr=3e-3, batch=10, ema=0.998, muon=True, seed=2),
}
ENCODER_UNTIL_MINUTES = 75  # then the VAE's decoder alone is trained
# until then a video model is trained on pieces of two latent frames, three times as many
PIECE_UNTIL_MINUTES = {Checkpoint.plain: 35, Checkpoint.default: 54}
MAX_CONDITIONS = 4  # of a training sample; each is TEXT_TOKENS long
CACHED_CLIPS = 7000  # clips whose latents the video models are trained on
CLIPS_SEED = 1  # of those clips
