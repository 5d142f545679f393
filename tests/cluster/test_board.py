"""What the studio knows of its films, without Ray: jobs are "done" by putting results into a real store."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.board import Board, needed
from cluster.films import FilmRequest, Job
from cluster.journal import Asked, Journal
from cluster.store import Store
from engine.errors import InputError
from engine.plan import Plan, Region, Scene
from engine.settings import ExecutionPlan, RenderSettings
from engine.video import encode_video

SPIN = Region(entity="fox", motion="spins around", caption="a fox spins around", boxes={"1-6": [0, 0, 1, 1]})
JUMP = SPIN.model_copy(update={"motion": "jumps", "caption": "a fox jumps"})


def _request(*scenes: Scene, **changes) -> FilmRequest:
    plan = Plan(scenes=scenes or (Scene(id="one", background="a forest"), Scene(id="two", background="a beach")))
    values = {
        "plan": plan, "seed": 3, "settings": RenderSettings(num_inference_steps=5, guidance_scale=4), "library": "l",
        "execution": ExecutionPlan(device="cpu", dtype="float32", threads=1), "model": "miniature", "fingerprint": "f",
        "known_motions": (),
    }  # fmt: skip
    return FilmRequest(**{**values, **changes})


def _with_priors() -> FilmRequest:
    return _request(
        Scene(id="spin", background="a forest", regions=(SPIN,)),
        Scene(id="jump", background="a beach", regions=(JUMP,)),
        Scene(id="calm", background="snow"),
    )


@pytest.fixture
def board(tmp_path) -> Board:
    store = Store(str(tmp_path))
    board = Board(store, Journal(store))
    for n in range(2):
        board.schedule.worker_joins(f"w{n}")
    return board


def _ask(board: Board, request: FilmRequest, **about) -> str:
    asked = Asked(request=request, workers=2, time=0.0, **about)
    board.journal.ask(asked)
    board.ask(asked)
    return request.key


async def _look(board: Board) -> None:
    while board.to_look_at:
        await board.look(board.to_look_at.popitem()[0])


def _start(board: Board) -> list[Job]:
    begun = [board.started(key, workers) for key, workers in board.schedule.assign()]
    return [under_way.job for under_way in begun if under_way]


def _put(board: Board, job: Job) -> None:
    clip = encode_video(np.zeros((4, 16, 16, 3), np.uint8), 8)
    board.store.put(job.kind, job.key, {"clip.mp4": clip}, {})


async def _do(board: Board, job: Job) -> None:
    workers = board.under_way[job.key].workers
    _put(board, job)
    board.finished(job.key, "cpu")
    _free(board, workers)
    await _look(board)


def _free(board: Board, workers: tuple[str, ...]) -> None:
    for name in workers:
        board.schedule.worker_free(name, "f")


def _labels(jobs: list[Job]) -> list[str]:
    return [f"{job.kind} {job.label}" for job in jobs]


async def test_a_film_from_first_to_last_job(board) -> None:
    key = _ask(board, _with_priors())
    await _look(board)
    started = _start(board)
    assert _labels(started) == ["clips spins around", "clips jumps", "scene calm"]
    for job in started:
        await _do(board, job)
    priors = _start(board)
    assert _labels(priors) == ["prior spins around", "prior jumps"]
    for job in priors:
        await _do(board, job)
    assert board.state(key) == "running"
    for job in _start(board):
        await _do(board, job)
    assert board.state(key) == "done" and board.journal.open_films() == []
    assert {job["state"] for job in board.status(key)["jobs"]} == {"done"}
    assert board.schedule.films == {} and board.jobs == {} and board.under_way == {}


async def test_what_is_stored_is_not_asked_for_nor_is_what_it_needed(board) -> None:
    request = _with_priors()
    film = request.film(request.plan)
    for job in film.scenes[:2]:
        _put(board, job)
    key = _ask(board, request)
    await _look(board)
    assert _labels(_start(board)) == ["scene calm"]
    assert needed(film, {job.result for job in film.scenes}) == []
    assert board.state(key) == "running"


async def test_a_lost_result_is_made_again_before_what_needs_it(board) -> None:
    """A prior that turns out damaged when its scene wants it."""
    request = _with_priors()
    film = request.film(request.plan)
    for job in (*film.priors, *film.scenes[1:]):
        _put(board, job)
    _ask(board, request)
    await _look(board)
    (scene,) = _start(board)
    board.store.delete(f"results/prior/{film.priors[0].key}/record.json")
    workers = board.under_way[scene.key].workers
    await board.failed(scene.key, KeyError("damaged"))
    _free(board, workers)
    for expected in ("clips spins around", "prior spins around", "scene spin"):
        (job,) = _start(board)
        assert _labels([job]) == [expected]
        await _do(board, job)
    assert board.state(request.key) == "done"


async def test_a_damaged_clip_is_made_again(board) -> None:
    request = _request()
    film = request.film(request.plan)
    for job in film.scenes:
        _put(board, job)
    board.store.write(board.store.place("scene", film.scenes[0].key, "clip.mp4"), b"half")
    _ask(board, request)
    await _look(board)
    (job,) = _start(board)
    assert job == film.scenes[0]
    await _do(board, job)
    assert board.state(request.key) == "done"


async def test_a_broken_scene_ends_its_film_when_the_others_are_done(board) -> None:
    request = _request()
    key = _ask(board, request)
    await _look(board)
    bad, good = _start(board)
    await board.failed(bad.key, InputError("a caption that cannot be"))
    assert board.state(key) == "running"
    await _do(board, good)
    assert board.state(key) == "failed"
    assert "scene one: a caption that cannot be (1 of 2 scenes are finished)" in board.status(key)["error"]
    _ask(board, request)
    await _look(board)
    board.schedule.worker_free("w0", "f")
    assert _start(board) == [bad]  # asked again, tried again


async def test_a_job_whose_answer_was_lost_counts_as_done(board) -> None:
    request = _request()
    _ask(board, request)
    await _look(board)
    first, _ = _start(board)
    _put(board, first)
    await board.failed(first.key, RuntimeError("the worker died after it had handed over"))
    assert board.schedule.state.get(first.key) is None and first.result in board.stored


async def test_a_film_asked_for_again_does_not_start_what_is_under_way(board) -> None:
    request = _request()
    _ask(board, request)
    await _look(board)
    jobs = _start(board)
    _ask(board, request)
    await _look(board)
    for name in ("w0", "w1"):
        board.schedule.worker_free(name, "f")
    assert _start(board) == []
    assert board.schedule.films[request.key].under_way == 2
    for job in jobs:
        _put(board, job)
        board.finished(job.key, "cpu")
    await _look(board)
    assert board.state(request.key) == "done"


async def test_two_films_share_a_prior_and_have_their_priorities(board) -> None:
    one = _with_priors()
    two = one.model_copy(update={"seed": 4})
    _ask(board, one)
    _ask(board, two, priority=5)
    await _look(board)
    started = _start(board)
    assert sum(job.kind == "clips" for job in started) == 2
    scenes = [job for job in started if job.kind == "scene"]
    assert [job.seed for job in scenes] == [4, 3]
    assert board.status(two.key)["priority"] == 5


async def test_a_scene_is_split_when_workers_have_nothing_else_and_that_is_kept(board) -> None:
    """The choice is on record before the first step; a retry, another studio and who asks for the film keep it."""
    alone = _request(Scene(id="one", background="a forest"))
    request = _request(Scene(id="one", background="a forest"), automatic=True)
    assert request.key != alone.key and "automatic" not in alone.model_dump()
    key = _ask(board, request)
    await _look(board)
    ((slot, workers),) = board.schedule.assign()
    assert workers == ("w0", "w1")
    under_way = board.started(slot, workers)
    job = await board.settle(under_way)
    assert job.execution.guidance_degree == 2 and job.workers == 2
    assert slot == job.slot == alone.film(alone.plan).scenes[0].key != job.key
    await board.failed(slot, RuntimeError("one of them died"))
    _free(board, workers)
    ((again, same),) = board.schedule.assign()
    assert again == slot and set(same) == set(workers)
    later = Board(board.store, board.journal)
    later.schedule.worker_joins("w0")
    later.ask(board.asked[key])
    await _look(later)
    assert later.schedule.assign() == []  # it takes two workers now, whoever asks
    assert board.started(again, same).job == job
    _put(board, job)
    board.finished(slot, "cpu")
    await _look(board)
    assert board.state(key) == "done" and request.finished(board.store).scenes == (job,)


async def test_scenes_that_fill_the_workers_are_not_split(board) -> None:
    _ask(board, _request(automatic=True))
    await _look(board)
    started = [board.started(slot, workers) for slot, workers in board.schedule.assign()]
    jobs = [await board.settle(under_way) for under_way in started]
    assert [job.workers for job in jobs] == [1, 1]
    assert [job.key for job in jobs] == [job.key for job in _request().film(_request().plan).scenes]


async def test_times_are_learned(board) -> None:
    request = _request()
    _ask(board, request)
    await _look(board)
    assert board.times.factors == {}
    jobs = _start(board)
    await _do(board, jobs[0])
    assert set(board.times.factors) == {("scene", 1, "cpu")}


async def test_a_paused_film_goes_on_where_it_was(board) -> None:
    request = _request()
    key = _ask(board, request, paused=True)
    await _look(board)
    assert _start(board) == [] and board.state(key) == "paused"
    board.pause(key, False)
    assert board.state(key) == "running" and not board.asked[key].paused
    (first, _) = _start(board)
    board.pause(key, True)
    await _do(board, first)
    assert board.state(key) == "paused" and first.result in board.stored


async def test_a_cancelled_film_keeps_what_is_done_and_may_be_asked_for_again(board) -> None:
    """Only what no other film waits for is ended."""
    one = _with_priors()
    two = one.model_copy(update={"seed": 4})
    key = _ask(board, one)
    _ask(board, two)
    await _look(board)
    started = _start(board)
    ended = board.cancel(key)
    assert {under_way.job.key for under_way in ended} == {j.key for j in started if j.kind == "scene" and j.seed == 3}
    assert board.state(key) == "cancelled" and [asked.request for asked in board.open()] == [two]
    for under_way in ended:  # their processes were ended
        await board.failed(under_way.job.key, RuntimeError("killed"), "the film was cancelled")
        _free(board, under_way.workers)
    assert all(board.jobs[key].seed != 3 for key, _ in board.schedule.assign() if board.jobs[key].kind == "scene")
    _ask(board, one)
    assert board.state(key) == "running"


def test_the_studio_guesses_what_workers_hold() -> None:
    from cluster.pool import MAX_RESIDENT_LORAS
    from engine.adapters import MAX_RESIDENT_LORAS as of_workers

    assert of_workers == MAX_RESIDENT_LORAS
