"""Films through a real Ray: a studio, two workers, a store. Those who are killed are in test_chaos.py."""

from __future__ import annotations

import time

import pytest
import ray
from ray.util.state import list_actors
from safetensors.torch import load

from actors.worker import Worker
from cluster.client import FilmFailed, ask_studio, close_studio, make_films, open_studio, render_films
from cluster.delivery import Delivery
from cluster.journal import Journal
from cluster.lease import holder
from cluster.store import Store
from engine.errors import InputError
from engine.video import read_video
from tests.conftest import scenes_of, small_request

pytestmark = pytest.mark.cluster


def test_a_film_is_made_by_studio_and_workers(a_film) -> None:
    store, request, seen = a_film
    frames, fps = read_video(store.get("film", request.film(request.plan).key, "film.mp4"))
    assert fps == 8
    assert len(frames) == 3 * 24
    alive = [a for a in seen[-1]["actors"] if a["state"] == "ALIVE"]
    assert sum(a["class"] == "Studio" for a in alive) == 1
    assert sum(a["class"] == "Worker" for a in alive) == 2
    side_by_side = max(sum(s["state"] == "running" for s in scenes_of(state)) for state in seen[:-1])
    assert side_by_side in (2, 3)  # two workers; one scene may be decoded beside them
    assert Journal(store).open_films() == []
    assert holder(store) is None


def test_the_journal_has_the_films_timeline(a_film) -> None:
    """Each scene once, on one of two workers, within the time in which the film was made."""
    store, request, _ = a_film
    done = Journal(store).done_film(request.key)
    assert {span.key for span in done.spans} == {job.key for job in request.film(request.plan).scenes}
    assert {(span.kind, span.outcome, len(span.worker)) for span in done.spans} == {("scene", "finished", 1)}
    assert len({span.worker for span in done.spans}) == 2
    assert all(done.asked <= span.start < span.end <= done.done for span in done.spans)


def test_the_films_frames_are_the_scenes_frames(a_film) -> None:
    store, request, _ = a_film
    film, _ = read_video(store.get("film", request.film(request.plan).key, "film.mp4"))
    for n, job in enumerate(request.film(request.plan).scenes):
        clip, _ = read_video(store.get("scene", job.key, "clip.mp4"))
        assert (film[24 * n : 24 * (n + 1)] == clip).all()


def test_finished_scenes_are_not_made_again(a_film, ray_of_two) -> None:
    """Another film with two of the same scenes: only the changed one is rendered."""
    store, request, _ = a_film
    scenes = request.plan.scenes
    changed = scenes[1].model_copy(update={"background": "a wide desert"})
    again = small_request(plan=request.plan.model_copy(update={"scenes": (scenes[0], changed, scenes[2])}))
    rendered: set[str] = set()
    render_films(
        store, [again], 2, None, lambda s: rendered.update(x["id"] for x in scenes_of(s[0]) if x["state"] == "running")
    )
    assert rendered == {changed.id}


def test_a_film_that_cannot_be_made_says_why_and_others_go_on(a_film, ray_of_two) -> None:
    store, _, _ = a_film
    good, bad = small_request(1), small_request(1, seed=6, fingerprint="of another model")
    with pytest.raises(FilmFailed, match=r"scene a-walk: failed 3 times: .*not the one the film was asked for"):
        render_films(store, [bad, good], 2, None, lambda states: None)
    assert good.finished(store) is not None


def test_a_film_is_paused_resumed_prioritized_and_cancelled(a_film, ray_of_two, tmp_path) -> None:
    """By a studio that stays. What is cancelled can be asked for again, and goes on from what is finished."""
    store, request = Store(str(tmp_path)), small_request(3, seed=8)
    studio = open_studio(store, "cpu")

    def wait(until) -> dict:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            (state,) = ray.get(studio.status.remote([key]))
            if until(state):
                return state
            time.sleep(0.1)
        raise TimeoutError(str(state))

    def in_state(state: dict, name: str) -> int:
        return sum(job["state"] == name for job in state["jobs"])

    key = ray.get(studio.submit.remote(request, 1, 2))
    wait(lambda state: in_state(state, "running"))
    ask_studio(store, "pause", key)
    paused = wait(lambda state: in_state(state, "done") and not in_state(state, "running"))
    assert paused["state"] == "paused" and paused["priority"] == 2 and in_state(paused, "done") == 1
    assert [asked.paused for asked in Journal(store).open_films()] == [True]
    ask_studio(store, "prioritize", key, 7)
    ask_studio(store, "pause", key, False)
    assert wait(lambda state: in_state(state, "running"))["priority"] == 7
    ask_studio(store, "cancel", key)
    assert wait(lambda state: not in_state(state, "running"))["state"] == "cancelled"
    assert Journal(store).open_films() == []
    with pytest.raises(InputError, match=f"the film {key} is cancelled and cannot be paused"):
        ask_studio(store, "pause", key)
    with pytest.raises(InputError, match="there is no film nobody"):
        ask_studio(store, "cancel", "nobody")
    make_films(studio, [request], 2, lambda states: None)
    close_studio(studio)
    assert request.finished(store) is not None
    scenes = [span.key for span in Journal(store).done_film(request.key).spans if span.outcome == "finished"]
    assert len(scenes) == len(set(scenes)) == 3


def test_a_scene_that_is_alone_gets_two_workers(a_film, ray_of_two, tmp_path) -> None:
    """Chosen by the studio, since one would have nothing to do; within a grey level of one worker's."""
    before, _, _ = a_film
    store = Store(str(tmp_path))
    request = small_request(1, automatic=True)
    render_films(store, [request], 2, None, lambda states: None)
    (scene,) = request.finished(store).scenes
    assert scene.workers == 2
    (alone,) = small_request(1).film(small_request(1).plan).scenes
    assert scene.was == alone.key
    latents = [load(s.get("scene", job.key, "latents.safetensors"))["latents"] for s, job in
               ((store, scene), (before, alone))]  # fmt: skip
    assert (latents[0] - latents[1]).abs().max() <= 1e-4 * latents[1].abs().max()


def test_nothing_is_left_over(a_film, ray_of_two) -> None:
    deadline = time.monotonic() + 30  # Ray ends a dead studio's workers in its own time
    while time.monotonic() < deadline:
        left = [
            a
            for a in list_actors(address=ray.get_runtime_context().gcs_address)
            if a.state == "ALIVE" and a.class_name in ("Studio", "Worker")
        ]
        if not left:
            break
        time.sleep(0.5)
    assert left == []


def test_two_jobs_at_once_take_turns_in_a_new_worker(ray_of_two, tmp_path) -> None:
    """A studio that died may have left one behind; neither may import half of what the other is importing."""
    store, request = Store(str(tmp_path)), small_request(2)
    worker, jobs = Worker.remote("cpu"), request.film(request.plan).scenes
    ray.get([worker.render.remote(job, Delivery(store, None, job)) for job in jobs])
    assert all(store.record(*job.result) for job in jobs)
    ray.kill(worker)
