"""Shared fixtures: one thread, one Ray and one small random model per run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from cluster.films import FilmRequest
from cluster.store import Store
from engine.models import load_bundle
from engine.plan import load_plan
from engine.settings import ExecutionPlan, RenderSettings

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
LONGEST = ("Ray and the language model", "Ray", "cluster/chaos", "cluster/pretrain")
# Files whose tests take Ray's fixtures: one process starts Ray and the language model for the first, another a Ray for
# the second. The others take no Ray, or clusters in processes of their own.
WITH_LANGUAGE_MODEL = ("actors/planner", "actors/openai_chat", "actors/index", "cluster/story", "serving/api")
WITH_RAY = (
    "cluster/studio", "cluster/broken", "cluster/telemetry", "cluster/ingest", "cluster/places",
    "serving/library", "serving/render",
)  # fmt: skip


class FewRays(LoadScopeScheduling):
    """Of three processes (make test) each starts Ray once at most, and one the language model. What takes longest comes
    first, so that neither waits for the other at the end."""

    def _split_scope(self, nodeid: str) -> str:
        return _scope(nodeid)


def _scope(nodeid: str) -> str:
    name = nodeid.split("::")[0].removeprefix("tests/").removesuffix(".py").replace("test_", "")
    kinds = {LONGEST[0]: WITH_LANGUAGE_MODEL, LONGEST[1]: WITH_RAY}
    return next((kind for kind, names in kinds.items() if name in names), name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (*LONGEST, _scope(item.nodeid)).index(_scope(item.nodeid)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FewRays:
    config.option.loadscopereorder = False
    return FewRays(config, log)


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


def small_request(scenes: int = 3, **changes) -> FilmRequest:
    """The example's first scenes in a few denoising steps."""
    plan = load_plan(ROOT / "examples" / "the-fox-and-the-robot.plan.yaml")
    bundle = load_bundle("miniature")
    values = {
        "plan": plan.model_copy(update={"scenes": plan.scenes[:scenes]}), "seed": 5, "model": "miniature",
        "settings": RenderSettings(num_inference_steps=5, guidance_scale=4), "fingerprint": bundle.fingerprint,
        "execution": ExecutionPlan(device="cpu", dtype="float32", threads=1), "learn": False,
    }  # fmt: skip
    return FilmRequest(**{**values, **changes})


def scenes_of(state: dict) -> list[dict]:
    """The scenes among the jobs of a film's state."""
    return [job for job in state["jobs"] if job["kind"] == "scene"]


@pytest.fixture(scope="session")
def a_film(ray_of_two, tmp_path_factory) -> tuple[Store, FilmRequest, list[dict]]:
    """A small film made by a real studio with two workers: its store, its request, and what was seen meanwhile (the
    studio's states; last, the actors that Ray listed while scenes were rendered)."""
    import ray
    from ray.util.state import list_actors

    from cluster.client import render_films

    store, request, seen = Store(str(tmp_path_factory.mktemp("store"))), small_request(), []
    actors: list[dict] = []

    def watch(states):
        seen.append(states[0])
        if not actors and any(s["step"] >= 1 for s in scenes_of(states[0])):
            actors.extend(
                {"class": a.class_name, "name": a.name, "state": a.state}
                for a in list_actors(address=ray.get_runtime_context().gcs_address)
            )

    render_films(store, [request], 2, None, watch)
    return store, request, [*seen, {"actors": actors}]
