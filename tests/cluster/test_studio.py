"""Films through a real Ray: a studio, two workers, a store; and a worker that is killed."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest
import ray
from ray.util.state import list_actors

from cluster.client import FilmFailed, render_films
from cluster.films import FilmRequest
from cluster.store import Store
from engine.models import load_bundle
from engine.plan import load_plan
from engine.settings import ExecutionPlan, RenderSettings
from engine.video import read_video
from tests.conftest import ROOT

pytestmark = pytest.mark.cluster


def _request(scenes: int = 3, **changes) -> FilmRequest:
    plan = load_plan(ROOT / "examples" / "the-fox-and-the-robot.plan.yaml")
    bundle = load_bundle("miniature")
    values = {
        "plan": plan.model_copy(update={"scenes": plan.scenes[:scenes]}), "seed": 5, "model": "miniature",
        "settings": RenderSettings(num_inference_steps=5, guidance_scale=4), "fingerprint": bundle.fingerprint,
        "execution": ExecutionPlan(device="cpu", dtype="float32", threads=1),
    }  # fmt: skip
    return FilmRequest(**{**values, **changes})


def _film_hash(store: Store, request: FilmRequest) -> str:
    return hashlib.sha256(store.get("film", request.key, "film.mp4")).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(ray_of_two, tmp_path_factory) -> tuple[Store, FilmRequest, list[dict]]:
    store, request, seen = Store(str(tmp_path_factory.mktemp("store"))), _request(), []
    actors: list[dict] = []

    def watch(states):
        seen.append(states[0])
        if not actors and any(s["step"] >= 1 for s in states[0]["scenes"]):
            actors.extend({"class": a.class_name, "name": a.name, "state": a.state} for a in list_actors())

    render_films(store, [request], 2, None, watch)
    return store, request, [*seen, {"actors": actors}]


def test_a_film_is_made_by_studio_and_workers(undisturbed) -> None:
    store, request, seen = undisturbed
    frames, fps = read_video(store.get("film", request.key, "film.mp4"))
    assert fps == 8
    assert len(frames) == 3 * 24
    alive = [a for a in seen[-1]["actors"] if a["state"] == "ALIVE"]
    assert sum(a["class"] == "Studio" for a in alive) == 1
    assert sum(a["class"] == "Worker" for a in alive) == 2
    side_by_side = max(sum(s["state"] == "running" for s in state["scenes"]) for state in seen[:-1])
    assert side_by_side == 2
    assert store.list("journal/films") == []
    assert store.read("lease.json") is None


def test_the_films_frames_are_the_scenes_frames(undisturbed) -> None:
    store, request, _ = undisturbed
    film, _ = read_video(store.get("film", request.key, "film.mp4"))
    for n, job in enumerate(request.jobs):
        clip, _ = read_video(store.get("scene", job.key, "clip.mp4"))
        assert (film[24 * n : 24 * (n + 1)] == clip).all()


def test_a_killed_worker_changes_nothing(undisturbed, ray_of_two, tmp_path) -> None:
    before, request, _ = undisturbed
    store, killed = Store(str(tmp_path)), []

    def watch(states):
        if not killed and any(s["state"] == "running" and s["step"] >= 2 for s in states[0]["scenes"]):
            worker = next(a for a in list_actors() if a.class_name == "Worker" and a.state == "ALIVE")
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(worker.pid)

    render_films(store, [request], 2, None, watch)
    assert killed
    assert _film_hash(store, request) == _film_hash(before, request)


def test_finished_scenes_are_not_made_again(undisturbed, ray_of_two) -> None:
    """Another film with two of the same scenes: only the changed one is rendered."""
    store, request, _ = undisturbed
    scenes = request.plan.scenes
    changed = scenes[1].model_copy(update={"background": "a wide desert"})
    again = _request(plan=request.plan.model_copy(update={"scenes": (scenes[0], changed, scenes[2])}))
    rendered: set[str] = set()
    render_films(store, [again], 2, None, lambda s: rendered.update(x["id"] for x in s[0]["scenes"] if x["state"] == "running"))
    assert rendered == {changed.id}


def test_a_film_that_cannot_be_made_says_why_and_others_go_on(undisturbed, ray_of_two) -> None:
    store, _, _ = undisturbed
    good, bad = _request(1), _request(1, seed=6, fingerprint="of another model")
    with pytest.raises(FilmFailed, match="scene a-walk: failed 3 times: .*not the one the film was asked for"):
        render_films(store, [bad, good], 2, None, lambda states: None)
    assert store.record("film", good.key) is not None


def test_nothing_is_left_over(undisturbed, ray_of_two) -> None:
    left = [a for a in list_actors() if a.state == "ALIVE" and a.class_name in ("Studio", "Worker")]
    assert left == []
    assert ray.is_initialized()
