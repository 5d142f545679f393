"""Shared fixtures: one thread, one Ray and one small random model per run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # spinning threads of several processes slow each other on two cores


@pytest.fixture(scope="session")
def author_plans() -> list[tuple[str, str]]:
    """(file name, plan text) of the authors' released plans, when they lie beside the checkout."""
    import json

    files = sorted((SHARED / "plans").glob("*.jsonl"))
    if not files:
        pytest.skip("the authors' plans (../shared/plans) are not here")
    return [tuple(json.loads(line)) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope="session")
def ray_of_two() -> Iterator[None]:
    """A real local Ray with two worker slots."""
    from cluster.local import ray_cluster

    with ray_cluster(None, 2):
        yield
