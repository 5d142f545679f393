"""What vLLM is started with, by the machine it starts on."""

from __future__ import annotations

import os

import psutil
import pytest
import torch

from engine.chat import dtype_of, idle_cores
from engine.models import PlannerModel


@pytest.mark.parametrize(("gpu", "multiplies", "dtype"), [
    (False, False, "float32"), (False, True, "bfloat16"), (True, False, "bfloat16"),
])  # fmt: skip
def test_a_cpu_that_only_emulates_bfloat16_takes_float32(monkeypatch, gpu: bool, multiplies: bool, dtype: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: multiplies)
    assert dtype_of(PlannerModel(model="some")) == dtype
    assert dtype_of(PlannerModel(model="some", dtype="float16")) == "float16"


@pytest.mark.parametrize(
    ("minute", "now", "idle"), [(0.1, 0, 8), (3.0, 0, 8), (0.1, 50, 8), (3.0, 50, 5), (30, 100, 1)]
)
def test_cores_are_idle_that_nobody_used_lately_or_uses_now(monkeypatch, minute, now, idle: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (minute, 0, 0))
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: now)
    assert idle_cores() == idle
