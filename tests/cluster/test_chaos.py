"""The benchmark that kills, with few kills: every film comes out the same, and nothing is left over."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


def _chaos(*arguments: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.chaos", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def _assert_nothing_lost(found: dict, kills: int) -> None:
    assert found["kills"] == sum(found["by_kind"].values()) == kills
    assert found["films"] == found["identical"] == kills
    assert found["lost"] == found["left_over_processes"] == 0


@pytest.mark.long
def test_three_kills() -> None:
    _assert_nothing_lost(_chaos("--kills", "3", "--seed", "1", "--kinds", "worker,studio,raylet"), 3)


@pytest.mark.long
def test_eight_kills() -> None:
    _assert_nothing_lost(_chaos("--kills", "8", "--seed", "2"), 8)
