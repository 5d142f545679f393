"""Workers that hang or fail, in a real studio: what can be made is made, and what cannot says why."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from cluster.client import FilmFailed, close_studio, make_films, open_studio, studio_name
from cluster.films import FilmRequest
from cluster.journal import Journal
from cluster.lease import holder
from cluster.local import NAMESPACE
from cluster.store import Store
from cluster.studio import Studio
from engine.plan import Plan, Scene
from engine.settings import ExecutionPlan, RenderSettings
from tests.cluster.clumsy import STEPS

pytestmark = pytest.mark.cluster
WORKER = "tests.cluster.clumsy:Clumsy"


def _studio(store: Store, **environment: str):
    """A storage's studio of clumsy workers, in this environment."""
    root = str(Path(__file__).parent.parent.parent)
    options = {"name": studio_name(store), "namespace": NAMESPACE, "lifetime": "detached"}
    options["runtime_env"] = {"env_vars": {"PYTHONPATH": root, **environment}}
    Studio.options(**options).remote(store.url, "cpu", WORKER)
    return open_studio(store, "cpu", WORKER)


@pytest.fixture(scope="module")
def studio(ray_of_two, tmp_path_factory):
    """One that gives silent workers 2 seconds."""
    store = Store(str(tmp_path_factory.mktemp("clumsy")))
    studio = _studio(store, DREAMRUNNER_HANG_S="2")
    yield store, studio
    close_studio(studio)


def test_a_film_on_s3(ray_of_two, s3_server, s3_url) -> None:
    """Studio and worker are processes of their own: all between them goes through the bucket."""
    store, request = Store(s3_url), _film("well", "well", seed=9)
    studio = _studio(store, **s3_server.environment)
    try:
        make_films(studio, [request], 1, lambda states: None)
    finally:
        close_studio(studio)
    assert request.finished(store) is not None
    assert [span.outcome for span in Journal(store).done_film(request.key).spans] == ["finished"] * 2
    assert holder(store) is None and Journal(store).open_films() == []


def _film(*backgrounds: str, seed: int = 0) -> FilmRequest:
    return FilmRequest(
        plan=Plan(scenes=tuple(Scene(id=f"s{n}", background=b) for n, b in enumerate(backgrounds))), seed=seed,
        settings=RenderSettings(num_inference_steps=STEPS, guidance_scale=1), model="nothing", fingerprint="nothing",
        execution=ExecutionPlan(device="cpu", dtype="float32", threads=1), learn=False,
    )  # fmt: skip


def test_a_worker_that_hangs_is_ended_and_its_scene_made_by_another(studio, tmp_path) -> None:
    store, actor = studio
    make_films(actor, [_film("well", "well")], 1, lambda states: None)  # now it is known how long a step takes
    hangs = _film(f"hangs {tmp_path / 'pid'}", "well", seed=1)
    make_films(actor, [hangs], 1, lambda states: None)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    spans = [span for span in Journal(store).done_film(hangs.key).spans if span.label == "s0"]
    assert [span.outcome for span in spans] == ["failed", "finished"]
    assert re.match(r"hung: no progress for \d+ s at step [12] of 5", spans[0].error)


def test_a_scene_is_decoded_while_its_worker_has_the_next(studio) -> None:
    store, actor = studio
    film = _film("decodes", "decodes", "decodes", seed=5)
    make_films(actor, [film], 1, lambda states: None)
    first, second, third = Journal(store).done_film(film.key).spans
    assert first.worker == second.worker == third.worker
    assert first.freed <= second.start < first.end
    assert second.freed <= third.start < second.end


def test_a_worker_that_dies_with_two_scenes_costs_an_attempt_of_each(studio, tmp_path) -> None:
    store, actor = studio
    film = _film(f"dies {tmp_path / 'died'}", "decodes", "well", seed=6)
    make_films(actor, [film], 1, lambda states: None)
    outcomes = [span.outcome for span in Journal(store).done_film(film.key).spans]
    assert outcomes.count("finished") == 3 and 1 <= outcomes.count("failed") <= 2


def test_a_broken_scene_fails_alone(studio) -> None:
    store, actor = studio
    film = _film("well", "broken", "well", seed=2)
    with pytest.raises(FilmFailed, match=r"scene s1: failed 3 times: .*out of paint .2 of 3 scenes are finished."):
        make_films(actor, [film], 1, lambda states: None)
    assert [store.record(*job.result) is not None for job in film.film(film.plan).scenes] == [True, False, True]


def test_scenes_that_all_fail_alike_stop_their_queue(studio) -> None:
    """Five of them would be fifteen attempts; the reason is clear after nine."""
    store, actor = studio
    film = _film(*["broken"] * 5, seed=3)
    with pytest.raises(FilmFailed, match=r"not tried, since 3 scene jobs in a row failed alike: .*out of paint"):
        make_films(actor, [film], 1, lambda states: None)
    attempts = Journal(store).spans([job.result for job in film.film(film.plan).scenes])
    assert 9 <= len(attempts) <= 12
    make_films(actor, [_film("well", seed=4)], 1, lambda states: None)  # who asks now is served again
