"""Nodes follow the pool, and the pool the backlog."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import pytest

from tests.conftest import ROOT


@pytest.mark.long
@pytest.mark.cluster
def test_nodes_come_for_a_film_and_go_when_nothing_needs_them() -> None:
    """From none to two for a film of eight scenes; to the one worker that is kept when it is done."""
    with tempfile.TemporaryDirectory(prefix="as") as folder:  # short: sockets lie in it
        command = [sys.executable, "-m", "tests.cluster.autoscaling", folder]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    slots = json.loads(run.stdout.splitlines()[-1])["slots"]
    assert slots[0] == 0 and max(slots) == 2 and slots[-1] == 1
