"""Priors: a motion learned from a few retrieved clips, a subject from its pictures, each as a LoRA (paper, 3.2).

Invariants:
- the base model is never written: LoRAs act by hooks while they learn (`LoraBank`), and DeepSpeed is given a module
  whose only parameters are the prior's;
- a per-video LoRA moves only in steps in which its video is seen: it is stepped by plain AdamW outside DeepSpeed, which
  would fill missing gradients with zeros, and AdamW would decay what has a zero gradient;
- all randomness comes from the seed: the same clips, settings, seed, threads and number of ranks give the same bytes.

The model sees a prior's clips with plain attention: one caption, heard everywhere, as the base was trained.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from engine.adapters import region_loras
from engine.errors import InputError
from engine.groups import ALONE, Ranks, process_group
from engine.lora import Kind, LoraBank, adapted_layers, resident_loras, save_lora
from engine.models import PriorSettings
from engine.subjects import VIEWS, VIEWS_OF_PLACE, draw_places, subject_views
from engine.unfinished import NOWHERE, SAVE_PRIOR_STEPS, Saves, pack_learning, restore_learning
from engine.video_model import VideoModel

BETA = 1.0  # how much of the anchor frame's appearance L_ad takes away
TEMPORAL_ONLY = 0.2  # share of steps without the videos' own LoRAs
MAX_GRAD_NORM = 1.0
BESIDE_SUBJECT = 0.1  # weight of what is not the subject, when it stands before a place that the model knows
CHECKS = 8  # clips with fixed noise, on which the loss before and after is compared
Report = Callable[[int, int], None]  # steps done, steps in all


class TrainingClip(NamedTuple):
    """One clip of a motion: a name, its own caption, uint8 frames (T, H, W, 3), T >= 2, at the bundle's frame rate."""

    name: str
    caption: str
    frames: np.ndarray


@dataclass(frozen=True)
class Prior:
    """`weights`: a safetensors file in stock diffusers' LoRA format. `card`: how it came about, for JSON."""

    weights: bytes
    card: dict[str, Any]


class Examples(NamedTuple):
    """What is learned from, encoded once: scaled latents (n, frames, channels, h, w), text (n, tokens, width), and the
    weight of each latent cell in the loss (n, 1, 1, h, w)."""

    latents: torch.Tensor
    text: torch.Tensor
    weight: torch.Tensor


class Noised(NamedTuple):
    """A batch as the model sees it, and what it should say: the scheduler's velocity. All (B, ...)."""

    latents: torch.Tensor
    text: torch.Tensor
    timesteps: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor


# ------------------------------------------------------------------------------------------------------------- losses


def debiased(x_BFCHW: torch.Tensor, anchor_B: torch.Tensor, beta: float = BETA) -> torch.Tensor:
    """phi(x) = sqrt(beta^2 + 1) x - beta x_anchor: what differs from one latent frame weighs more than what stays."""
    x_anchor = x_BFCHW[torch.arange(len(x_BFCHW)), anchor_B][:, None]
    return (beta**2 + 1) ** 0.5 * x_BFCHW - beta * x_anchor


def motion_loss(target: torch.Tensor, prediction: torch.Tensor, anchor_B: torch.Tensor) -> torch.Tensor:
    """L = L_org + L_ad (method, section 3)."""
    return F.mse_loss(prediction, target) + F.mse_loss(debiased(prediction, anchor_B), debiased(target, anchor_B))


def frame_loss(
    target: torch.Tensor, prediction: torch.Tensor, frame_B: torch.Tensor, weight: torch.Tensor | float = 1.0
) -> torch.Tensor:
    """Mean squared error of one latent frame of each sample, cells weighted by (B, 1, 1, h, w)."""
    rows = torch.arange(len(target))
    error = (prediction[rows, frame_B] - target[rows, frame_B]).square()
    w = torch.as_tensor(weight, dtype=error.dtype, device=error.device)
    w = (w[:, 0] if w.ndim else w).expand_as(error)
    return (error * w).sum() / w.sum()


# ------------------------------------------------------------------------------------------------------ the model side


def fast_arithmetic(model: VideoModel) -> Any:
    """bfloat16 autocast for a float32 model on a CPU that multiplies bfloat16; any other model runs as it is."""
    half = model.dtype == torch.float32 and model.device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16) if half else nullcontext()


class _Denoiser:
    """The frozen model and what it is shown."""

    def __init__(self, model: VideoModel, examples: Examples) -> None:
        self.model, self.examples = model, examples
        self.scheduler = model.new_scheduler(model.bundle.num_inference_steps)
        self.rotary = model.rotary()

    def noised(self, pick: Sequence[int], timesteps: torch.Tensor | None = None) -> Noised:
        """Noise for these examples; timesteps are drawn, stratified over the batch, unless given."""
        device, batch = self.model.device, len(pick)
        x0 = self.examples.latents[list(pick)].to(device)
        noise = torch.randn(x0.shape).to(device)
        if timesteps is None:
            strata = (torch.randperm(batch) + torch.rand(batch)) / batch
            timesteps = (strata * self.scheduler.config.num_train_timesteps).long()
        t = timesteps.to(device)
        return Noised(
            self.scheduler.add_noise(x0, noise, t), self.examples.text[list(pick)].to(device), t,
            self.scheduler.get_velocity(x0, noise, t), self.examples.weight[list(pick)].to(device),
        )  # fmt: skip

    def predict(self, batch: Noised) -> torch.Tensor:
        """The model's velocity in float32, through whatever LoRAs are applied."""
        dtype, grid, rotary = self.model.dtype, self.model.grid, self.rotary
        if rotary is not None:  # a clip's first frames have the table's first rows
            tokens = batch.latents.shape[1] * grid.rows * grid.columns
            rotary = (rotary[0][:tokens], rotary[1][:tokens])
        with fast_arithmetic(self.model):
            output = self.model.transformer(
                batch.latents.to(dtype), batch.text.to(dtype), batch.timesteps, image_rotary_emb=rotary,
                return_dict=False,
            )[0]  # fmt: skip
        return output.float()


@torch.no_grad()
def encode_frames(model: VideoModel, frames: np.ndarray) -> torch.Tensor:
    """uint8 (T, H, W, 3) of any size -> scaled latents float32 (frames, channels, h, w) on the CPU.

    The clip is cut to the model's aspect about its middle, resized, and sampled evenly to the model's frames.
    """
    b = model.bundle
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
    with fast_arithmetic(model):
        z = model.vae.encode(video).latent_dist.mode()
    return (z[0].permute(1, 0, 2, 3).float() * model.vae.config.scaling_factor).cpu()


# ------------------------------------------------------------------------------------------------------------ learning


@contextmanager
def deepspeed_engine(module: nn.Module, settings: PriorSettings, ranks: Ranks, device: str) -> Iterator[Any]:
    """DeepSpeed over a module that holds a prior's parameters and nothing else, for one job.

    ZeRO stage 0: an adapter's moments are small, and every worker keeps them all.
    """
    with process_group(ranks.rank, ranks.world_size, ranks.address or _free_address(), device):
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel("WARNING")
        rate = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "torch_adam": True}
        engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=list(module.parameters()),
            config={
                "train_batch_size": ranks.share(settings.batch) * ranks.world_size,
                "train_micro_batch_size_per_gpu": ranks.share(settings.batch),
                "optimizer": {"type": "AdamW", "params": rate},
                "gradient_clipping": MAX_GRAD_NORM,
                "zero_optimization": {"stage": 0},
                "steps_per_print": 10**9,
            },
        )
        try:
            yield engine
        finally:
            engine.destroy()


class _Objective(nn.Module):
    """What DeepSpeed wraps: its parameters are the prior's LoRA, its output the loss of a batch."""

    def __init__(self, bank: LoraBank, loss: Callable[[Noised], torch.Tensor], transformer: nn.Module) -> None:
        super().__init__()
        self.bank = bank
        self._outside = (loss, transformer)  # in a tuple, so that the base's parameters are not registered

    def forward(self, batch: Noised) -> torch.Tensor:
        loss, transformer = self._outside
        with self.bank.applied(transformer, [0] * len(batch.latents)):
            return loss(batch)


class _Work:
    """A prior under way: its loss so far, saved every few steps, and gone on with where it was saved."""

    def __init__(
        self,
        saves: Saves,
        weights: dict[str, nn.ParameterList],
        optimizers: dict[str, torch.optim.Optimizer],
        before: float,
        began: float,
    ) -> None:
        self.saves, self.weights, self.optimizers = saves, weights, optimizers
        self.before, self.began, self.spent = before, began, 0.0
        self.curve: list[float] = []
        if earlier := restore_learning(saves.load(), weights, optimizers):
            self.curve, self.spent = earlier["curve"], earlier["seconds"]

    @property
    def seconds(self) -> float:
        """Of all attempts together."""
        return self.spent + time.perf_counter() - self.began

    def steps(self, total: int) -> Iterator[int]:
        """The steps that are left."""
        for step in range(len(self.curve), total):
            yield step
            if (step + 1) % SAVE_PRIOR_STEPS == 0 and step + 1 < total:
                about = {"curve": self.curve, "seconds": self.seconds}
                self.saves.save(pack_learning(self.weights, self.optimizers, about))


def learn_motion(
    model: VideoModel,
    clips: Sequence[TrainingClip],
    settings: PriorSettings,
    seed: int,
    report: Report = lambda done, total: None,
    ranks: Ranks = ALONE,
    saves: Saves = NOWHERE,
) -> Prior:
    """A motion's LoRA, in the even blocks, from clips that show it (method, section 3).

    Each clip has a LoRA of its own in the odd blocks, which takes up how it looks and is then thrown away. With several
    ranks each learns from its share of the clips; the clips' LoRAs stay where their clips are. `saves` are this rank's
    own: what they have of an earlier attempt is gone on with.
    """
    _check_clips(clips)
    began = time.perf_counter()
    mine = [clips[i] for i in range(ranks.rank % len(clips), len(clips), ranks.world_size)]
    examples = Examples(
        torch.stack([encode_frames(model, clip.frames) for clip in mine]),
        torch.cat([model.encode_text(clip.caption) for clip in mine]).cpu(),
        torch.ones(len(mine), 1, 1, *model.latent_shape[2:]),
    )
    denoiser, transformer, frames = _Denoiser(model, examples), model.transformer, model.latent_shape[0]

    def loss(batch: Noised) -> torch.Tensor:
        return motion_loss(batch.target, denoiser.predict(batch), torch.randint(frames, (len(batch.target),)))

    with _learning(model, seed):
        bank = LoraBank(adapted_layers(transformer, "motion"), settings.rank, settings.dropout).to(model.device)
        torch.manual_seed(seed + 1 + ranks.rank)
        spatial = LoraBank(adapted_layers(transformer, "subject"), settings.rank, settings.dropout, len(mine))
        spatial.to(model.device)
        adamw = torch.optim.AdamW(
            spatial.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=False
        )
        before = _check(denoiser, loss, bank)
        objective = _Objective(bank, loss, transformer)
        with deepspeed_engine(objective, settings, ranks, model.device.type) as engine:
            weights = {"prior": bank.loras, "videos": spatial.loras}
            work = _Work(saves, weights, {"prior": engine.optimizer, "videos": adamw}, before, began)
            for step in work.steps(settings.steps):
                pick = _draw(len(mine), ranks.share(settings.batch))
                batch = denoiser.noised(pick)
                beside: Any = nullcontext()
                if torch.rand(()) >= TEMPORAL_ONLY:
                    _step_spatial(denoiser, spatial, adamw, batch, pick)
                    beside = spatial.applied(transformer, pick, frozen=True)
                with beside:
                    work.curve.append(_step(engine, batch))
                report(step + 1, settings.steps)
        after = _check(denoiser, loss, bank)
    notes = {"clips": [{"name": clip.name, "caption": clip.caption} for clip in mine]}
    return _prior("motion", model, bank, settings, after, work, notes)


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
    """A subject's LoRA, in the odd blocks, from one to five pictures (method, section 4): static clips, and the loss of
    their first latent frame, there where the subject is. `settings.subject_frames` shortens the clips: what comes after
    the first frame is the same once more, and costs as much again.

    `phrase`: what captions call it, e.g. "[v1] dragon"; a picture's caption is "a PHRASE" and the place before which it
    was put (`draw_places`).
    """
    if not phrase.strip():
        raise InputError("subject: the phrase is empty; give the words that captions call it, such as '[v1] dragon'")
    began = time.perf_counter()
    b, settings = model.bundle, settings.of_subject()
    with _learning(model, seed):
        places = draw_places(model, seed)
    views = subject_views(images, b.height, b.width, seed, max(VIEWS, VIEWS_OF_PLACE * len(places)), places)
    outside = BESIDE_SUBJECT if places else 0.0
    masks = torch.stack([torch.from_numpy(view.mask)[None, None] for view in views])
    cells = torch.stack([F.adaptive_avg_pool2d(mask, model.latent_shape[2:]) for mask in masks])
    examples = Examples(
        torch.stack(
            [encode_frames(model, np.repeat(view.picture[None], 2, 0))[: settings.subject_frames] for view in views]
        ),
        torch.cat([model.encode_text(f"a {phrase} {view.place}".strip()) for view in views]).cpu(),
        outside + (1 - outside) * cells,
    )
    denoiser = _Denoiser(model, examples)

    def loss(batch: Noised) -> torch.Tensor:
        first = torch.zeros(len(batch.target), dtype=torch.long)
        return frame_loss(batch.target, denoiser.predict(batch), first, batch.weight)

    with _learning(model, seed):
        bank = LoraBank(adapted_layers(model.transformer, "subject"), settings.rank, settings.dropout).to(model.device)
        torch.manual_seed(seed + 1 + ranks.rank)
        before = _check(denoiser, loss, bank)
        objective = _Objective(bank, loss, model.transformer)
        with deepspeed_engine(objective, settings, ranks, model.device.type) as engine:
            work = _Work(saves, {"prior": bank.loras}, {"prior": engine.optimizer}, before, began)
            for step in work.steps(settings.steps):
                work.curve.append(_step(engine, denoiser.noised(_draw(len(views), ranks.share(settings.batch)))))
                report(step + 1, settings.steps)
        after = _check(denoiser, loss, bank)
    notes = {"phrase": phrase, "images": len(images), "views": len(views)}
    return _prior("subject", model, bank, settings, after, work, notes)


def _step(engine: Any, batch: Noised) -> float:
    value = engine(batch)
    engine.backward(value)
    engine.step()
    return float(value.detach())


def _step_spatial(
    denoiser: _Denoiser, spatial: LoraBank, adamw: torch.optim.Optimizer, batch: Noised, pick: Sequence[int]
) -> None:
    """One step of the picked videos' LoRAs, the motion's off: the error of one random latent frame."""
    with spatial.applied(denoiser.model.transformer, pick):
        prediction = denoiser.predict(batch)
        frame = torch.randint(prediction.shape[1], (len(prediction),))
        frame_loss(batch.target, prediction, frame).backward()
    nn.utils.clip_grad_norm_(spatial.parameters(), MAX_GRAD_NORM)
    adamw.step()
    adamw.zero_grad(set_to_none=True)  # no gradient, no step: the other videos' LoRAs stay as they are


@torch.no_grad()
def _check(denoiser: _Denoiser, loss: Callable[[Noised], torch.Tensor], bank: LoraBank) -> float:
    """The loss on fixed noise and timesteps, so that two of them can be compared."""
    count = len(denoiser.examples.latents)
    times = (torch.arange(CHECKS) + 0.5) / CHECKS * denoiser.scheduler.config.num_train_timesteps
    bank.eval()
    with torch.random.fork_rng(devices=[]), bank.applied(denoiser.model.transformer, [0]):
        torch.manual_seed(0)
        values = [float(loss(denoiser.noised([n % count], times[n : n + 1].long()))) for n in range(CHECKS)]
    bank.train()
    return sum(values) / CHECKS


@contextmanager
def _learning(model: VideoModel, seed: int) -> Iterator[None]:
    """Resident adapters are off and torch's random numbers come from the seed; both are put back afterwards."""
    resident = region_loras(model.transformer, {}) if resident_loras(model.transformer) else nullcontext()
    devices = [model.device] if model.device.type == "cuda" else []
    with resident, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _draw(count: int, batch: int) -> list[int]:
    """`batch` of `count` examples, each once where they suffice."""
    return (torch.randperm(count) if batch <= count else torch.randint(count, (batch,)))[:batch].tolist()


def _prior(
    kind: Kind, model: VideoModel, bank: LoraBank, settings: PriorSettings, after: float, work: _Work,
    notes: dict[str, Any],
) -> Prior:  # fmt: skip
    card = {
        "kind": kind, "base": model.bundle.name, "license": model.bundle.license, **notes,
        "settings": settings.model_dump(), "steps": len(work.curve), "loss_before": round(work.before, 5),
        "loss_after": round(after, 5), "curve": [round(value, 5) for value in work.curve],
        "seconds": round(work.seconds, 2),
    }  # fmt: skip
    return Prior(save_lora(bank.weights()), card)


def _check_clips(clips: Sequence[TrainingClip]) -> None:
    if not clips:
        raise InputError("motion: no clips show it; add some to the library (dreamrunner library add FOLDER)")
    for clip in clips:
        f = clip.frames
        if f.ndim != 4 or f.shape[3] != 3 or f.dtype != np.uint8 or len(f) < 2:
            raise InputError(f"clip {clip.name}: {f.dtype} {f.shape} is no clip; give uint8 (at least 2, H, W, 3)")
        if not clip.caption.strip():
            raise InputError(f"clip {clip.name}: it has no caption; say in words what it shows")


def _free_address() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"
