"""Priors: a motion learned from a few retrieved clips, a subject from its pictures, each as a LoRA (paper, 3.2).

Invariants:
- the base model is never written: LoRAs act by hooks while they learn (`LoraBank`), and DeepSpeed is given a module
  whose only parameters are the priors';
- a per-video LoRA moves only in steps in which its video is seen;
- all randomness comes from the seed: the same clips, settings, seed, threads and number of ranks give the same bytes.

The model sees a prior's clips with plain attention: one caption, heard everywhere, as the base was trained. How the
steps go, several priors in one batch and early stop, stands in `engine/learning.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from engine.adapters import region_loras
from engine.errors import InputError
from engine.groups import ALONE, Ranks
from engine.learning import Examples, Learned, Lesson, Noised, Report, arithmetic, frame_loss, learn
from engine.lora import Kind, resident_loras, save_lora
from engine.models import PriorSettings
from engine.subjects import VIEWS, VIEWS_OF_PLACE, View, draw_places, pictures_of, subject_views
from engine.unfinished import NOWHERE, Saves
from engine.video_model import VideoModel

BETA = 1.0  # how much of the anchor frame's appearance L_ad takes away
BESIDE_SUBJECT = 0.1  # weight of what is not the subject, when it stands before a place that the model knows
HOLD_OUT_FROM = 5  # clips or pictures, of which one is then not learned from but looked at


class TrainingClip(NamedTuple):
    """One clip of a motion: a name, its own caption, uint8 frames (T, H, W, 3), T >= 2, at the bundle's frame rate."""

    name: str
    caption: str
    frames: np.ndarray


class Portrait(NamedTuple):
    """A subject: one to five pictures, and what captions call it, e.g. "[v1] dragon"."""

    images: Sequence[Image.Image | np.ndarray]
    phrase: str


@dataclass(frozen=True)
class Prior:
    """`weights`: a safetensors file in stock diffusers' LoRA format. `card`: how it came about, for JSON."""

    weights: bytes
    card: dict[str, Any]


def debiased(x_BFCHW: torch.Tensor, anchor_B: torch.Tensor, beta: float = BETA) -> torch.Tensor:
    """phi(x) = sqrt(beta^2 + 1) x - beta x_anchor: what differs from one latent frame weighs more than what stays."""
    x_anchor = x_BFCHW[torch.arange(len(x_BFCHW)), anchor_B][:, None]
    return (beta**2 + 1) ** 0.5 * x_BFCHW - beta * x_anchor


def motion_loss(target: torch.Tensor, prediction: torch.Tensor, anchor_B: torch.Tensor) -> torch.Tensor:
    """L = L_org + L_ad (method, section 3)."""
    return F.mse_loss(prediction, target) + F.mse_loss(debiased(prediction, anchor_B), debiased(target, anchor_B))


@torch.no_grad()
def encode_frames(model: VideoModel, frames: np.ndarray, precision: str = "auto") -> torch.Tensor:
    """uint8 (T, H, W, 3) of any size -> scaled latents float32 (frames, channels, h, w) on the CPU.

    The clip is cut to the model's aspect about its middle, resized, and sampled evenly to the model's frames.
    """
    b = model.bundle

    def encode() -> torch.Tensor:
        index = torch.from_numpy(np.linspace(0, len(frames) - 1, b.num_frames).round().astype(np.int64))
        x_TCHW = torch.from_numpy(np.ascontiguousarray(frames))[index].permute(0, 3, 1, 2).float() / 127.5 - 1
        height, width = x_TCHW.shape[2:]
        if (height, width) != (b.height, b.width):
            scale = max(b.height / height, b.width / width)
            size = (max(round(height * scale), b.height), max(round(width * scale), b.width))
            x_TCHW = F.interpolate(x_TCHW, size, mode="bicubic", antialias=True).clamp(-1, 1)
            top, left = (size[0] - b.height) // 2, (size[1] - b.width) // 2
            x_TCHW = x_TCHW[:, :, top : top + b.height, left : left + b.width]
        video = x_TCHW.permute(1, 0, 2, 3)[None].to(model.device, model.dtype)
        with arithmetic(model, precision):
            z = model.vae.encode(video).latent_dist.mode()
        return (z[0].permute(1, 0, 2, 3).float() * model.vae.config.scaling_factor).cpu()

    return model.encodings.get(f"latents {precision} {frames.shape}", np.ascontiguousarray(frames).tobytes(), encode)


def learn_motions(
    model: VideoModel,
    motions: Sequence[Sequence[TrainingClip]],
    settings: PriorSettings,
    seed: int,
    report: Report = lambda done, total: None,
    ranks: Ranks = ALONE,
    saves: Saves = NOWHERE,
) -> list[Prior]:
    """A LoRA for each motion, in the even blocks, from clips that show it (method, section 3), all in one batch: each
    comes out as it would alone.

    Each clip has a LoRA of its own in the odd blocks, which takes up how it looks and is then thrown away. Of five or
    more clips the one in the middle of the ranking is not learned from: the steps that do best on it are kept; of fewer
    those that do best on the clips themselves, with fixed noise. With several ranks each learns from its share of the
    clips, and the clips' LoRAs stay where their clips are. `saves` are this rank's own: what they have of an earlier
    attempt is gone on with.
    """
    lessons, notes = [], []
    for clips in motions:
        _check_clips(clips)
        held = len(clips) // 2 if len(clips) >= HOLD_OUT_FROM else None
        taught = [clip for n, clip in enumerate(clips) if n != held]
        mine = [taught[i] for i in range(ranks.rank % len(taught), len(taught), ranks.world_size)]
        examples = _clip_examples(model, mine, settings)
        checks = examples if held is None else _clip_examples(model, [clips[held]], settings)
        lessons.append(Lesson(examples, checks))
        notes.append(
            {
                "clips": [{"name": clip.name, "caption": clip.caption} for clip in clips],
                "held_out": None if held is None else clips[held].name,
            }
        )
    frames = model.latent_shape[0]

    def loss(batch: Noised, prediction: torch.Tensor, source: torch.Generator) -> torch.Tensor:
        return motion_loss(batch.target, prediction, torch.randint(frames, (len(batch.target),), generator=source))

    with _quiet(model):
        learned = learn(model, "motion", lessons, settings, seed, loss, report, ranks, saves)
    return [_prior("motion", model, settings, *pair) for pair in zip(learned, notes, strict=True)]


def learn_motion(
    model: VideoModel,
    clips: Sequence[TrainingClip],
    settings: PriorSettings,
    seed: int,
    report: Report = lambda done, total: None,
    ranks: Ranks = ALONE,
    saves: Saves = NOWHERE,
) -> Prior:
    """One motion's LoRA; see `learn_motions`."""
    return learn_motions(model, [clips], settings, seed, report, ranks, saves)[0]


def learn_subjects(
    model: VideoModel,
    subjects: Sequence[Portrait],
    settings: PriorSettings,
    seed: int,
    report: Report = lambda done, total: None,
    ranks: Ranks = ALONE,
    saves: Saves = NOWHERE,
) -> list[Prior]:
    """A LoRA for each subject, in the odd blocks, from one to five pictures (method, section 4), all in one batch:
    static clips, and the loss of their first latent frame, there where the subject is. `settings.subject_frames`
    shortens the clips: what comes after the first frame is the same once more, and costs as much again.

    A picture's caption is "a PHRASE" and the place before which it was put (`draw_places`). Of five pictures the last
    is not learned from: the steps that do best on it are kept; of fewer those that do best on what was learned from.
    """
    for _, phrase in subjects:
        if not phrase.strip():
            raise InputError(
                "subject: the phrase is empty; give the words that captions call it, such as '[v1] dragon'"
            )
    pictures = [pictures_of(images) for images, _ in subjects]
    b, settings = model.bundle, settings.of_subject()
    with _quiet(model):
        places = draw_places(model, seed)
    lessons, notes = [], []
    for images, (_, phrase) in zip(pictures, subjects, strict=True):
        held = len(images) - 1 if len(images) >= HOLD_OUT_FROM else None
        count = max(VIEWS, VIEWS_OF_PLACE * len(places))
        views = subject_views(images[:held], b.height, b.width, seed, count, places)
        looked_at = views if held is None else subject_views(images[held:], b.height, b.width, seed, count, places)
        examples = _view_examples(model, views, phrase, bool(places), settings)
        checks = examples if held is None else _view_examples(model, looked_at, phrase, bool(places), settings)
        lessons.append(Lesson(examples, checks))
        held_out = None if held is None else f"picture {held + 1}"
        notes.append({"phrase": phrase, "images": len(images), "views": len(views), "held_out": held_out})

    def loss(batch: Noised, prediction: torch.Tensor, source: torch.Generator) -> torch.Tensor:
        first = torch.zeros(len(batch.target), dtype=torch.long)
        return frame_loss(batch.target, prediction, first, batch.weight)

    with _quiet(model):
        learned = learn(model, "subject", lessons, settings, seed, loss, report, ranks, saves)
    return [_prior("subject", model, settings, *pair) for pair in zip(learned, notes, strict=True)]


def learn_subject(
    model: VideoModel,
    images: Sequence[Image.Image | np.ndarray],
    phrase: str,
    settings: PriorSettings,
    seed: int,
    report: Report = lambda done, total: None,
    ranks: Ranks = ALONE,
    saves: Saves = NOWHERE,
) -> Prior:
    """One subject's LoRA; see `learn_subjects`."""
    return learn_subjects(model, [Portrait(images, phrase)], settings, seed, report, ranks, saves)[0]


def _clip_examples(model: VideoModel, clips: Sequence[TrainingClip], settings: PriorSettings) -> Examples:
    latents = torch.stack([encode_frames(model, clip.frames, settings.precision) for clip in clips])
    text = torch.cat(model.encode_texts(clip.caption for clip in clips)).cpu()
    return Examples(latents, text, torch.ones(len(clips), 1, 1, *latents.shape[3:]))


def _view_examples(
    model: VideoModel, views: Sequence[View], phrase: str, placed: bool, settings: PriorSettings
) -> Examples:
    """Static clips of the views, their captions, and where each view's subject is."""
    latents = [encode_frames(model, np.repeat(view.picture[None], 2, 0), settings.precision) for view in views]
    masks = torch.stack([torch.from_numpy(view.mask)[None, None] for view in views])
    cells = torch.stack([F.adaptive_avg_pool2d(mask, model.latent_shape[2:]) for mask in masks])
    outside = BESIDE_SUBJECT if placed else 0.0
    return Examples(
        torch.stack([z[: settings.subject_frames] for z in latents]),
        torch.cat(model.encode_texts(f"a {phrase} {view.place}".strip() for view in views)).cpu(),
        outside + (1 - outside) * cells,
    )


@contextmanager
def _quiet(model: VideoModel) -> Iterator[None]:
    """Resident adapters are off."""
    with region_loras(model.transformer, {}) if resident_loras(model.transformer) else nullcontext():
        yield


def _prior(kind: Kind, model: VideoModel, settings: PriorSettings, learned: Learned, notes: dict[str, Any]) -> Prior:
    course = learned.course
    checks = [[step, round(loss, 5)] for step, loss in course.checks]
    by_step = dict(course.checks)
    card = {
        "kind": kind, "base": model.bundle.name, "fingerprint": model.bundle.fingerprint,
        "license": model.bundle.license, **notes, "settings": settings.model_dump(), "steps": len(course.curve),
        "kept_step": course.kept_step, "loss_before": round(by_step[0], 5),
        "loss_after": round(by_step[course.kept_step], 5), "checks": checks,
        "curve": [round(value, 5) for value in course.curve], "seconds": round(learned.seconds, 2),
    }  # fmt: skip
    return Prior(save_lora(learned.weights, model.bundle.base), card)


def _check_clips(clips: Sequence[TrainingClip]) -> None:
    if not clips:
        raise InputError("motion: no clips show it; add some to the library (dreamrunner library add FOLDER)")
    for clip in clips:
        f = clip.frames
        if f.ndim != 4 or f.shape[3] != 3 or f.dtype != np.uint8 or len(f) < 2:
            raise InputError(f"clip {clip.name}: {f.dtype} {f.shape} is no clip; give uint8 (at least 2, H, W, 3)")
        if not clip.caption.strip():
            raise InputError(f"clip {clip.name}: it has no caption; say in words what it shows")
