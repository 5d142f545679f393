"""How LoRAs learn in a resident model, whatever they learn: one step, several priors in one batch, early stop, and
going on after a death.

Invariants:
- all randomness is a function of (seed, rank, step): so nothing of it is saved, and a prior that learns beside others
  sees the same noise as alone;
- a prior's loss, the clipping of its gradient and its stop are its own; what the batch shares is the model's work;
- an adapter that no sample of a step uses gets no gradient, and does not move.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from engine.groups import ALONE, Ranks, free_address, process_group
from engine.lora import Kind, LoraBank, Weights, adapted_layers
from engine.models import PriorSettings, multiplies_bfloat16
from engine.scene import noise_generator
from engine.unfinished import NOWHERE, SAVE_PRIOR_STEPS, Saves, pack_learning, restore_learning, unpack
from engine.video_model import VideoModel

TEMPORAL_ONLY = 0.2  # share of steps without the videos' own LoRAs
MAX_GRAD_NORM = 1.0
CHECKS = 8  # samples with fixed noise, on which the loss is looked at
Report = Callable[[int, int], None]  # steps done, steps in all


class Examples(NamedTuple):
    """What is learned from, encoded once: scaled latents (n, frames, channels, h, w), text (n, tokens, width), and the
    weight of each latent cell in the loss (n, 1, 1, h, w)."""

    latents: torch.Tensor
    text: torch.Tensor
    weight: torch.Tensor


class Lesson(NamedTuple):
    """One prior's: this rank's examples, and those on which its loss is looked at."""

    examples: Examples
    checks: Examples


class Noised(NamedTuple):
    """A batch as the model sees it, and what it should say: the scheduler's velocity. All (B, ...)."""

    latents: torch.Tensor
    text: torch.Tensor
    timesteps: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor

    def parts(self, count: int) -> list[Noised]:
        """The batches of `count` priors, which are equally large."""
        return [Noised(*tensors) for tensors in zip(*(tensor.chunk(count) for tensor in self), strict=True)]


Loss = Callable[[Noised, torch.Tensor, torch.Generator], torch.Tensor]  # of a batch and what the model says


@dataclass
class Course:
    """How one prior's learning went: its loss at each step, and [step, loss] on fixed noise, from before the first
    step on; `kept_step` is the best of these."""

    curve: list[float] = field(default_factory=list)
    checks: list[tuple[int, float]] = field(default_factory=list)
    kept_step: int = 0
    done: bool = False


class Learned(NamedTuple):
    """A prior's weights, how it came about, and seconds of all attempts and all priors of its batch together."""

    weights: Weights
    course: Course
    seconds: float


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


def arithmetic(model: VideoModel, precision: str = "auto") -> Any:
    """Autocast to bfloat16, or the model's own dtype (`PriorSettings.precision`)."""
    if precision == "auto":
        half = model.dtype == torch.float32 and model.device.type == "cpu" and multiplies_bfloat16()
    else:
        half = precision == "bfloat16"
    return torch.autocast(model.device.type, torch.bfloat16) if half else nullcontext()


class Denoiser:
    """The frozen model and what it is shown."""

    def __init__(self, model: VideoModel, precision: str = "auto") -> None:
        self.model, self.precision = model, precision
        self.scheduler = model.new_scheduler(model.bundle.num_inference_steps)
        self.rotary = model.rotary()

    def noised(
        self, examples: Examples, pick: Sequence[int], source: torch.Generator, timesteps: torch.Tensor | None = None
    ) -> Noised:
        """Noise for these examples; timesteps are drawn, stratified over the batch, unless given."""
        device, batch = self.model.device, len(pick)
        x0 = examples.latents[list(pick)].to(device)
        noise = torch.randn(x0.shape, generator=source).to(device)
        if timesteps is None:
            strata = torch.randperm(batch, generator=source) + torch.rand(batch, generator=source)
            timesteps = (strata / batch * self.scheduler.config.num_train_timesteps).long()
        t = timesteps.to(device)
        return Noised(
            self.scheduler.add_noise(x0, noise, t), examples.text[list(pick)].to(device), t,
            self.scheduler.get_velocity(x0, noise, t), examples.weight[list(pick)].to(device),
        )  # fmt: skip

    def predict(self, batch: Noised) -> torch.Tensor:
        """The model's velocity in float32, through whatever LoRAs are applied."""
        dtype, grid, rotary = self.model.dtype, self.model.grid, self.rotary
        if rotary is not None:  # a clip's first frames have the table's first rows
            tokens = batch.latents.shape[1] * grid.rows * grid.columns
            rotary = (rotary[0][:tokens], rotary[1][:tokens])
        with arithmetic(self.model, self.precision):
            output = self.model.transformer(
                batch.latents.to(dtype), batch.text.to(dtype), batch.timesteps, image_rotary_emb=rotary,
                return_dict=False,
            )[0]  # fmt: skip
        return output.float()


@contextmanager
def checkpointing(transformer: nn.Module, on: bool) -> Iterator[None]:
    """Within the block each transformer block keeps its input alone, and is computed again on the way back."""
    if on:
        transformer.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if on:
            transformer.disable_gradient_checkpointing()


# ------------------------------------------------------------------------------------------------------------ learning


@contextmanager
def deepspeed_engine(
    module: nn.Module, settings: PriorSettings, ranks: Ranks, device: str, stage: int = 0
) -> Iterator[Any]:
    """DeepSpeed over a module that holds priors' parameters and nothing else, for one job.

    ZeRO stage 0: an adapter's moments are small, and every worker keeps them all, so that each can be saved and clipped
    by itself.
    """
    with process_group(ranks.rank, ranks.world_size, ranks.address or free_address(), device):
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
                "zero_optimization": {"stage": stage},
                "steps_per_print": 10**9,
            },
        )
        try:
            yield engine
        finally:
            engine.destroy()


class Objective(nn.Module):
    """What DeepSpeed wraps: its parameters are the priors' LoRAs, its output the loss of each, (priors,)."""

    def __init__(self, bank: LoraBank, denoiser: Denoiser, loss: Loss) -> None:
        super().__init__()
        self.bank = bank
        self._outside = (denoiser, loss)  # in a tuple, so that the base's parameters are not registered

    def forward(self, batch: Noised, sources: Sequence[torch.Generator]) -> torch.Tensor:
        denoiser, loss = self._outside
        said = denoiser.predict(batch).chunk(len(sources))
        return torch.stack([loss(*own) for own in zip(batch.parts(len(sources)), said, sources, strict=True)])


class VideoLoras:
    """A LoRA for each training video of each prior, which takes up how the video looks and is thrown away in the end.

    They are stepped by plain AdamW outside DeepSpeed, which would fill missing gradients with zeros, and AdamW would
    decay what has a zero gradient: whatever the ZeRO stage, one moves only in steps in which its video is seen.
    """

    def __init__(self, model: VideoModel, lessons: Sequence[Lesson], settings: PriorSettings, name: str, seed: int):
        counts = [len(lesson.examples.latents) for lesson in lessons]
        self.first = list(accumulate([0, *counts]))
        sources = [source for n in counts for source in [noise_generator(seed, name, -1)] * n]
        layers = adapted_layers(model.transformer, "subject", settings.placement)
        self.bank = LoraBank(layers, settings.rank, settings.dropout, sources).to(model.device)
        self.adamw = torch.optim.AdamW(
            self.bank.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=False
        )

    def step(
        self, denoiser: Denoiser, batch: Noised, picks: Sequence[Sequence[int]], frame_B: torch.Tensor,
        seeds: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """One step of the picked videos' LoRAs, `picks` for each prior, the priors' own off: the error of one latent
        frame of each sample."""
        with self.bank.applied(denoiser.model.transformer, [n for pick in picks for n in pick], seeds=seeds):
            said = denoiser.predict(batch).chunk(len(picks))
            parts = zip(batch.parts(len(picks)), said, frame_B.chunk(len(picks)), strict=True)
            sum(frame_loss(part.target, own, frame) for part, own, frame in parts).backward()
        for pick in picks:
            nn.utils.clip_grad_norm_([self.bank.loras[n] for n in dict.fromkeys(pick)], MAX_GRAD_NORM)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)  # no gradient, no step: the other videos' LoRAs stay as they are


class Work:
    """Priors under way in one batch: their courses, what is kept of each, and saves to go on from.

    `mean` are the LoRAs' exponential averages over the steps (`PriorSettings.ema`), which are looked at and kept: the
    LoRAs themselves go back and forth, with the few clips of each step.
    """

    def __init__(
        self, saves: Saves, bank: LoraBank, weights: dict[str, nn.ParameterList],
        optimizers: dict[str, torch.optim.Optimizer], ranks: Ranks, began: float,
    ) -> None:  # fmt: skip
        self.saves, self.bank, self.optimizers, self.ranks = saves, bank, optimizers, ranks
        self.mean = bank.copy()
        self.kept = bank.copy().loras
        self.weights = {**weights, "mean": self.mean.loras, "kept": self.kept}
        self.courses = [Course() for _ in bank.loras]
        self.step, self.began, self.spent = 0, began, 0.0
        data = saves.load()
        if self._all_have(data) and (earlier := restore_learning(data, self.weights, optimizers)):
            self.courses = [Course(**course) for course in earlier["courses"]]
            self.step, self.spent = earlier["step"], earlier["seconds"]

    def _all_have(self, data: bytes | None) -> bool:
        """Whether every rank can go on from the same step; they save one after the other."""
        if self.ranks.world_size == 1:
            return True
        found: list[Any] = [None] * self.ranks.world_size
        mine = unpack(data)
        dist.all_gather_object(found, mine and mine[1]["step"])
        return len(set(found)) == 1

    @property
    def seconds(self) -> float:
        """Of all attempts together."""
        return self.spent + time.perf_counter() - self.began

    @property
    def active(self) -> list[int]:
        return [n for n, course in enumerate(self.courses) if not course.done]

    def steps(self, total: int) -> Iterator[int]:
        """The steps that are left, until all priors are done."""
        while self.step < total and self.active:
            yield self.step
            self.step += 1
            if self.step % SAVE_PRIOR_STEPS == 0 and self.step < total:
                about = {
                    "step": self.step, "seconds": self.seconds, "courses": [asdict(course) for course in self.courses]
                }  # fmt: skip
                self.saves.save(pack_learning(self.weights, self.optimizers, about))

    @torch.no_grad()
    def average(self, ema: float) -> None:
        """Takes the active priors' LoRAs as they are now into their averages."""
        decay = min(ema, (1 + self.step) / (10 + self.step))
        for n in self.active:
            self.mean.loras[n].lerp_(self.bank.loras[n], 1 - decay)

    @torch.no_grad()
    def look(self, step: int, losses: torch.Tensor, patience: int) -> None:
        """Takes note of the active priors' losses on fixed noise after `step` steps; the best weights are kept."""
        if self.ranks.world_size > 1:
            dist.all_reduce(losses)
            losses /= self.ranks.world_size
        for n, loss in zip(self.active, losses.tolist(), strict=True):
            course = self.courses[n]
            looks = [(loss, step) for step, loss in course.checks if step > 0]
            if step > 0 and (not looks or loss < min(looks)[0]):
                course.kept_step = step
                self.kept[n].copy_(self.mean.loras[n])
            course.checks.append((step, loss))
            course.done = sum(at > course.kept_step for at, _ in course.checks[1:]) >= patience


def learn(
    model: VideoModel,
    kind: Kind,
    lessons: Sequence[Lesson],
    settings: PriorSettings,
    seed: int,
    loss: Loss,
    report: Report = lambda done, total: None,
    ranks: Ranks = ALONE,
    saves: Saves = NOWHERE,
) -> list[Learned]:
    """Priors of one kind, each from its own lesson, all in one batch: as each alone would come out with the same seed,
    up to the rounding of larger matrix products. `saves` are this rank's own."""
    began, name = time.perf_counter(), f"rank {ranks.rank}"
    transformer, denoiser, total = model.transformer, Denoiser(model, settings.precision), settings.steps
    layers = adapted_layers(transformer, kind, settings.placement)
    sources = [noise_generator(seed, "prior", -1) for _ in lessons]
    bank = LoraBank(layers, settings.rank, settings.dropout, sources).to(model.device)
    videos = VideoLoras(model, lessons, settings, name, seed) if kind == "motion" and settings.video_loras else None
    objective, share = Objective(bank, denoiser, loss), ranks.share(settings.batch)
    with (
        checkpointing(transformer, settings.gradient_checkpointing),
        deepspeed_engine(objective, settings, ranks, model.device.type) as engine,
    ):
        weights, optimizers = {"prior": bank.loras}, {"prior": engine.optimizer}
        if videos:
            weights, optimizers = {**weights, "videos": videos.bank.loras}, {**optimizers, "videos": videos.adamw}
        work = Work(saves, bank, weights, optimizers, ranks, began)
        if work.step == 0:
            work.look(0, _look(denoiser, work.mean, lessons, work.active, loss), settings.patience)
        for step in work.steps(total):
            active = work.active
            draws = [noise_generator(seed, name, step) for _ in active]
            alone = float(torch.rand((), generator=noise_generator(seed, f"{name} alone", step))) < TEMPORAL_ONLY
            picks = [_pick(lessons[n].examples, share, draw) for n, draw in zip(active, draws, strict=True)]
            shown = zip(active, picks, draws, strict=True)
            batch = _joined([denoiser.noised(lessons[n].examples, pick, draw) for n, pick, draw in shown])
            beside: Any = nullcontext()
            if videos and not alone:
                numbers = [[videos.first[n] + i for i in pick] for n, pick in zip(active, picks, strict=True)]
                frames = batch.target.shape[1]
                frame_B = torch.cat([torch.randint(frames, (share,), generator=draw) for draw in draws])
                videos.step(denoiser, batch, numbers, frame_B, _seeds(share, draws))
                flat = [number for own in numbers for number in own]
                beside = videos.bank.applied(transformer, flat, frozen=True, seeds=_seeds(share, draws))
            whose = [n for n in active for _ in range(share)]
            with beside, bank.applied(transformer, whose, seeds=_seeds(share, draws)):
                losses = engine(batch, draws)
                engine.backward(losses.sum())
            for n, lora in enumerate(bank.loras):
                if n in active:
                    nn.utils.clip_grad_norm_([lora], MAX_GRAD_NORM)
                else:
                    lora.grad = None  # DeepSpeed made zeros of none
            engine.step()
            work.average(settings.ema)
            for n, value in zip(active, losses.tolist(), strict=True):
                work.courses[n].curve.append(value)
            if (step + 1) % settings.check_every == 0 or step + 1 == total:
                work.look(step + 1, _look(denoiser, work.mean, lessons, active, loss), settings.patience)
            report(step + 1, total)
    parts = zip(work.kept, work.courses, strict=True)
    return [Learned(bank.split(kept.detach()), course, work.seconds) for kept, course in parts]


@torch.no_grad()
def _look(
    denoiser: Denoiser, bank: LoraBank, lessons: Sequence[Lesson], active: Sequence[int], loss: Loss
) -> torch.Tensor:
    """The active priors' losses (priors,) on fixed noise and timesteps, so that two of them can be compared."""
    times = (torch.arange(CHECKS) + 0.5) / CHECKS * denoiser.scheduler.config.num_train_timesteps
    found = []
    with bank.applied(denoiser.model.transformer, active):
        for n in range(CHECKS):
            draws = [noise_generator(0, "look", n) for _ in active]
            shown = [
                denoiser.noised(checks, [n % len(checks.latents)], draw, times[n : n + 1].long())
                for checks, draw in zip((lessons[i].checks for i in active), draws, strict=True)
            ]
            said = denoiser.predict(_joined(shown)).chunk(len(active))
            found.append(torch.stack([loss(*own) for own in zip(shown, said, draws, strict=True)]))
    return torch.stack(found).mean(0)


def _joined(batches: Sequence[Noised]) -> Noised:
    return Noised(*(torch.cat(tensors) for tensors in zip(*batches, strict=True)))


def _pick(examples: Examples, batch: int, source: torch.Generator) -> list[int]:
    """`batch` of the examples, each once where they suffice."""
    count = len(examples.latents)
    drawn = (
        torch.randperm(count, generator=source) if batch <= count else torch.randint(count, (batch,), generator=source)
    )
    return drawn[:batch].tolist()


def _seeds(share: int, sources: Sequence[torch.Generator]) -> list[int]:
    """Dropout's, for each sample of each prior."""
    return [seed for source in sources for seed in torch.randint(2**31, (share,), generator=source).tolist()]
