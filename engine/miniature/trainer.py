"""The loop that all of the miniature's trainings share: AdamW or Muon, EMA, a time budget, a state to go on from."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.miniature.settings import CURVES, TRAINING, TrainingSettings

MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")  # what AdamW and Muon remember of each weight
LossFn = Callable[[int], tuple[torch.Tensor, dict[str, float]]]


class Trainer:
    """Trains `model` by `loss(step) -> (loss, figures to log)`; `publish(ema)` writes the weights that others load.

    The state (weights, EMA, moments, step, minutes spent) is saved every few minutes and found again by name, so the
    same command goes on after any interruption. `loss` must draw its randomness from the step alone.
    """

    def __init__(
        self, name: str, model: torch.nn.Module, settings: TrainingSettings, published: dict[str, Path] | None = None
    ) -> None:
        """`published`: prefix of weight names -> safetensors file, of what `publish` wrote. A clone, which has no exact
        state, goes on from there with fresh moments."""
        self.name, self.model, self.settings = name, model, settings
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
        if self.file.exists():
            self._load()
        elif published and all(file.exists() for file in published.values()) and self._curve().exists():
            self._load_published(published)

    def run(self, loss: LossFn, publish: Callable[[dict[str, torch.Tensor]], None]) -> None:
        """Trains until the time budget is spent."""
        s, count = self.settings, 0
        sums: dict[str, tuple[float, int]] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns) as progress:
            bar = progress.add_task(self.name, total=s.minutes)
            saved = self.minutes
            while self.minutes < s.minutes:
                began = time.perf_counter()
                lr = self._learning_rate()
                for optimizer in self.optimizers:
                    optimizer.param_groups[0]["lr"] = lr
                value, figures = loss(self.step)
                value.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), s.clip_norm)
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                self._average()
                self.step += 1
                self.minutes += (time.perf_counter() - began) / 60
                for key, figure in {"loss": float(value.detach()), **figures}.items():
                    total, n = sums.get(key, (0.0, 0))
                    sums[key] = (total + figure, n + 1)
                count += 1
                if count == 25:
                    means = {k: round(total / n, 5) for k, (total, n) in sums.items()}
                    self._log({"step": self.step, "minutes": round(self.minutes, 2), "lr": round(lr, 6), **means})
                    progress.update(
                        bar, completed=self.minutes, description=f"{self.name} {self.step} {means['loss']:.4f}"
                    )
                    sums, count = {}, 0
                if self.minutes - saved >= s.save_every_minutes:
                    self.save()
                    publish(self.ema)
                    saved = self.minutes
            self.save()
            publish(self.ema)

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
        CURVES.mkdir(exist_ok=True)
        with self._curve().open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _curve(self) -> Path:
        return CURVES / f"{self.name}.jsonl"

    def _load_published(self, published: dict[str, Path]) -> None:
        tensors = {prefix + key: t for prefix, file in published.items() for key, t in load_file(file).items()}
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
