"""The miniature's training loop: what was interrupted goes on as if it had not been."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.miniature import trainer as module
from engine.miniature.settings import TrainingSettings
from engine.miniature.trainer import Trainer

SETTINGS = TrainingSettings(minutes=3, lr=1e-2, batch=4, warmup_steps=5, muon=True, save_every_minutes=0.4)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.my_blocks = nn.Linear(6, 6)  # Muon's
        self.head = nn.Linear(6, 2)  # AdamW's

    def loss(self, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        error = (self.head(self.my_blocks(x).tanh()) - x[:, :2]).square().mean()
        return error, {"twice": 2 * float(error.detach())}


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    """Keeps the state apart, and a clock by which every step takes 1/20 minute."""
    monkeypatch.setattr(module, "TRAINING", tmp_path)
    monkeypatch.setattr(module, "CURVES", tmp_path / "curves")
    now = iter(range(0, 10**6, 3))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(now)))
    return tmp_path


def train(name: str, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    model, published = Small(), {}

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        if step == stop_at:
            raise KeyboardInterrupt
        return model.loss(step)

    Trainer(name, model, SETTINGS).run(loss, lambda ema: published.update({k: v.clone() for k, v in ema.items()}))
    return published | {f"now.{k}": v.detach().clone() for k, v in model.named_parameters()}


def test_interrupted_training_ends_with_the_same_weights(home: Path) -> None:
    undisturbed = train("a")
    for stop in (19, 44):
        with pytest.raises(KeyboardInterrupt):
            train("b", stop)
    resumed = train("b")
    assert undisturbed.keys() == resumed.keys() and "now.head.weight" in resumed
    for key, value in undisturbed.items():
        assert torch.equal(value, resumed[key]), key


def test_the_log_tells_steps_minutes_and_the_loss_that_falls(home: Path) -> None:
    train("a")
    lines = [json.loads(line) for line in (home / "curves" / "a.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [25, 50]
    assert lines[1]["minutes"] == pytest.approx(2.5)
    assert lines[1]["loss"] < lines[0]["loss"]
    assert lines[0]["twice"] == pytest.approx(2 * lines[0]["loss"], rel=1e-3)


def test_a_clone_goes_on_from_what_was_published(home: Path) -> None:
    weights = train("a")
    from safetensors.torch import save_file

    save_file({k: v for k, v in weights.items() if not k.startswith("now.")}, home / "published.safetensors")
    (home / "a.safetensors").unlink()
    again = Trainer("a", Small(), SETTINGS, {"": home / "published.safetensors"})
    assert again.step == 50 and again.minutes == pytest.approx(2.5)
    assert torch.equal(again.parameters["head.weight"], weights["head.weight"])
