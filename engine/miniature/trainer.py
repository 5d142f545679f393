"""The loop that all of the miniature's trainings share: AdamW or Muon, EMA, a time budget, a state to go on from.

Alone it is plain PyTorch. Of several ranks (cluster/pretrain.py) each draws its own part of every batch, and DeepSpeed
averages the gradients; rank 0 keeps the state, the log and the time.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.groups import ALONE, Ranks
from engine.miniature.settings import CURVES, TRAINING, TrainingSettings
from engine.models import multiplies_bfloat16

STEP_S = 30.0  # that a step counts at most
LOG_EVERY = 25  # steps
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")  # what AdamW and Muon remember of each weight
DTYPE = torch.bfloat16 if multiplies_bfloat16() else torch.float32  # emulated, a step takes twenty times as long
LossFn = Callable[[int], tuple[torch.Tensor, dict[str, float]]]


def arithmetic() -> torch.autocast:
    """Autocast to bfloat16, on a CPU that multiplies it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=DTYPE is torch.bfloat16)


def read_published(files: dict[str, Path]) -> dict[str, torch.Tensor]:
    """The weights of several files under one name each: prefix -> file."""
    return {prefix + key: t for prefix, file in files.items() for key, t in load_file(file).items()}


class _Objective(torch.nn.Module):
    """What DeepSpeed wraps."""

    def __init__(self, model: torch.nn.Module, loss: LossFn) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return self.loss(step)


class _Both(torch.optim.Optimizer):
    """Several optimizers as the one that DeepSpeed takes; they share their groups with it."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([p for o in optimizers for group in o.param_groups for p in group["params"]], {})
        self.optimizers = optimizers
        self.param_groups = [group for o in optimizers for group in o.param_groups]

    def step(self, closure: Any = None) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


class Trainer:
    """Trains `model` by `loss(step) -> (loss, figures to log)`; `publish(ema)` writes the weights that others load.

    The state (weights, EMA, moments, step, minutes spent) is saved every few minutes and found again by name, so the
    same command goes on after any interruption. `loss` must draw its randomness from the step (and its rank) alone.
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        settings: TrainingSettings,
        published: dict[str, Path] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """`published`: prefix of weight names -> safetensors file, of what `publish` wrote. A clone, which has no exact
        state, goes on from there with fresh moments. Several `ranks` must be in their process group already."""
        self.name, self.model, self.settings, self.ranks = name, model, settings, ranks
        self.parameters = dict(model.named_parameters())
        self.ema = {k: v.detach().clone() for k, v in self.parameters.items()}
        matrices = [p for k, p in self.parameters.items() if settings.muon and p.ndim == 2 and "_blocks." in k]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.parameters.values() if id(p) not in chosen]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay)
        ]
        if matrices:
            self.optimizers.append(
                torch.optim.Muon(
                    matrices, lr=settings.lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        self.step, self.minutes = 0, 0.0
        self.began = 0  # the step at which the moments were fresh, from which the learning rate warms up
        self.file = TRAINING / f"{name}.safetensors"
        if ranks.world_size > 1:
            self._share_state()
        if self.file.exists():
            self._load()
        elif published and all(file.exists() for file in published.values()) and self._curve().exists():
            self._load_published(published)

    def run(
        self,
        loss: LossFn,
        publish: Callable[[dict[str, torch.Tensor]], None],
        report: Callable[[dict[str, float]], None] = lambda line: None,
    ) -> None:
        """Trains until the time budget is spent. Every rank gives `report` each line of the log."""
        s, first = self.settings, self.ranks.rank == 0
        sums: dict[str, list[float]] = {}
        update = self._update(loss) if self.ranks.world_size == 1 else self._update_together(loss)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not first) as progress:
            bar = progress.add_task(self.name, total=s.minutes)
            saved = self.minutes
            while self.minutes < s.minutes:
                began = time.perf_counter()
                lr = self._learning_rate()
                for optimizer in self.optimizers:
                    optimizer.param_groups[0]["lr"] = lr
                value, figures = update(self.step)
                self._average()
                self.step += 1
                seconds = min(time.perf_counter() - began, STEP_S)  # a machine that slept does not end the training
                self.minutes = self._agreed(self.minutes + seconds / 60)
                for key, figure in {"loss": value, **figures}.items():
                    sums.setdefault(key, []).append(figure)
                if len(sums["loss"]) == LOG_EVERY:
                    means = {k: round(sum(values) / len(values), 5) for k, values in sums.items()}
                    line = {"step": self.step, "minutes": round(self.minutes, 2), "lr": round(lr, 6), **means}
                    self._log(line)
                    report(line)
                    progress.update(
                        bar, completed=self.minutes, description=f"{self.name} {self.step} {means['loss']:.4f}"
                    )
                    sums = {}
                if first and self.minutes - saved >= s.save_every_minutes:
                    self.save()
                    publish(self.ema)
                    saved = self.minutes
            if first:
                self.save()
                publish(self.ema)

    def _update(self, loss: LossFn) -> Callable[[int], tuple[float, dict[str, float]]]:
        def update(step: int) -> tuple[float, dict[str, float]]:
            value, figures = loss(step)
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            return float(value.detach()), figures

        return update

    def _update_together(self, loss: LossFn) -> Callable[[int], tuple[float, dict[str, float]]]:
        """The same with gradients averaged over the ranks, by DeepSpeed."""
        import deepspeed

        engine, *_ = deepspeed.initialize(
            model=_Objective(self.model, loss),
            optimizer=_Both(self.optimizers),
            config={
                "train_batch_size": self.ranks.world_size,  # DeepSpeed's word; what a rank draws is the loss's business
                "train_micro_batch_size_per_gpu": 1,
                "gradient_clipping": self.settings.clip_norm,
                "zero_optimization": {"stage": 0},
                "steps_per_print": 10**9,
            },
        )

        def update(step: int) -> tuple[float, dict[str, float]]:
            value, figures = engine(step)
            engine.backward(value)
            engine.step()
            return float(value.detach()), figures

        return update

    def _share_state(self) -> None:
        """Rank 0's state file on every rank's disk: a rank that comes anew has none."""
        import deepspeed.comm as ds

        state = [self.file.read_bytes() if self.ranks.rank == 0 and self.file.exists() else b""]
        ds.broadcast_object_list(state, 0)
        if state[0] and self.ranks.rank > 0:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(f"{self.file}.{self.ranks.rank}.partial")
            partial.write_bytes(state[0])
            partial.replace(self.file)
        ds.barrier()

    def _agreed(self, minutes: float) -> float:
        """Rank 0's clock: all end after the same step."""
        if self.ranks.world_size == 1:
            return minutes
        import deepspeed.comm as ds

        clock = torch.tensor(minutes, dtype=torch.float64)
        ds.broadcast(clock, 0)
        return float(clock)

    @torch.no_grad()
    def restart(self, weights: dict[str, torch.Tensor]) -> None:
        """Goes on from these weights, their average as well, with fresh moments."""
        for key, value in self.parameters.items():
            value.copy_(weights[key])
            self.ema[key] = value.detach().clone()
        for optimizer in self.optimizers:
            optimizer.state.clear()
        self.began = self.step

    def _optimizer_of(self, parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
        return next(o for o in self.optimizers if any(parameter is p for p in o.param_groups[0]["params"]))

    def _learning_rate(self) -> float:
        s, share = self.settings, min(self.minutes / self.settings.minutes, 1.0)
        cosine = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * share))
        return s.lr * cosine * min(1.0, (self.step - self.began + 1) / s.warmup_steps)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for key, value in self.parameters.items():
            self.ema[key].lerp_(value, 1 - decay)

    def _log(self, line: dict[str, float]) -> None:
        if self.ranks.rank > 0:
            return
        CURVES.mkdir(exist_ok=True)
        with self._curve().open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _curve(self) -> Path:
        return CURVES / f"{self.name}.jsonl"

    def _load_published(self, published: dict[str, Path]) -> None:
        tensors = read_published(published)
        for key, value in self.parameters.items():
            value.data.copy_(tensors[key])
            self.ema[key] = value.detach().clone()
        last = json.loads(self._curve().read_text().splitlines()[-1])
        self.step, self.minutes = int(last["step"]), float(last["minutes"])
        self.began = self.step

    def save(self) -> None:
        tensors = {}
        for key, value in self.parameters.items():
            tensors[f"weight.{key}"], tensors[f"ema.{key}"] = value.detach().clone(), self.ema[key]
            moments = self._optimizer_of(value).state.get(value, {})
            tensors |= {f"{m}.{key}": moments[m] for m in MOMENTS if m in moments}
        self.file.parent.mkdir(exist_ok=True)
        partial = Path(f"{self.file}.partial")
        save_file(tensors, partial, {"step": str(self.step), "minutes": str(self.minutes)})
        partial.replace(self.file)

    def _load(self) -> None:
        with safe_open(self.file, "pt") as file:
            meta = file.metadata()
            self.step, self.minutes = int(meta["step"]), float(meta["minutes"])
            names = set(file.keys())
            for key, value in self.parameters.items():
                value.data.copy_(file.get_tensor(f"weight.{key}"))
                self.ema[key] = file.get_tensor(f"ema.{key}")
                moments = {m: file.get_tensor(f"{m}.{key}") for m in MOMENTS if f"{m}.{key}" in names}
                if moments:
                    if "exp_avg" in moments:
                        moments["step"] = torch.tensor(float(self.step))
                    self._optimizer_of(value).state[value] = moments
