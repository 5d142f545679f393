"""Which job goes to which workers, and how many it gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.idle import Idle
from cluster.schedule import RUNNING, Schedule, Task, film_rank, longest_paths, pool_size, workers_of

SPLITS = ((1, 10.0), (2, 6.0), (4, 4.0), (6, 4.5))


@st.composite
def films(draw) -> dict[str, list[Task]]:
    """Films of a few jobs; a job's needs stand before it, and some jobs belong to several films."""
    shared = [Task(f"prior-{n}", ((1, 20.0),), model=draw(st.sampled_from("ab"))) for n in range(3)]
    out = {}
    for number in range(draw(st.integers(1, 4))):
        priors = [task for task in shared if draw(st.booleans())]
        scenes = []
        for n in range(draw(st.integers(0, 5))):
            needs = tuple(task.key for task in priors if draw(st.booleans()))
            workers = draw(st.sampled_from([0, 1, 1, 1, 2, 3]))
            seconds = float(draw(st.integers(1, 9)))
            scenes.append(Task(f"{number}-{n}", ((workers, seconds),), needs, draw(st.sampled_from("ab")), needs))
        out[f"film-{number}"] = priors + scenes
    return out


def _naive_choice(schedule: Schedule) -> set[str]:
    """The jobs whose turn it is (equals, all of one film), by looking at everything."""
    ready = {key for key, state in schedule.state.items() if state == "ready" and schedule.tasks[key].splits[0][0]}
    turn = [
        (film_rank(film.priority, film.under_way, film.number), -path, key)
        for film in schedule.films.values() if not film.paused for key, path in film.keys.items() if key in ready
    ]  # fmt: skip
    best = min(turn)[:2] if turn else None
    return {key for rank, path, key in turn if (rank, path) == best}


@given(films(), st.integers(1, 4), st.integers(0, 3), st.data())
def test_everything_is_done_once_after_what_it_needs_and_no_worker_does_two_things(asked, workers, retries, data):
    """The whole life of some films, with jobs that end in any order, some of them badly."""
    schedule, tasks = Schedule(), {task.key: task for jobs in asked.values() for task in jobs}
    for n in range(workers):
        schedule.worker_joins(f"w{n}")
    for number, (film, jobs) in enumerate(asked.items()):
        schedule.add(film, jobs, priority=number % 2)
    done, running = set(), {}
    while True:
        for key, names in schedule.assign():
            assert set(tasks[key].needs) <= done and key not in done and key not in running
            assert len(names) == tasks[key].splits[0][0]
            assert not set(names) & {name for others in running.values() for name in others}
            running[key] = names
        if len(schedule.idle) and all(task.splits[0][0] < 2 for task in tasks.values()):
            assert schedule.waiting == 0  # no worker idles while work waits
        assert {key for key, state in schedule.state.items() if state == RUNNING} == set(running)
        if not running:
            break
        key = data.draw(st.sampled_from(sorted(running)))
        for name in running.pop(key):
            schedule.worker_free(name, tasks[key].model, tasks[key].loras)
        if retries and data.draw(st.booleans()):
            retries -= 1
            schedule.retry(key)
        else:
            schedule.done(key)
            done.add(key)
    too_big = {key for key, task in tasks.items() if task.splits[0][0] > workers}
    assert done == set(tasks) - too_big
    assert schedule.waiting == 0 and schedule.wanted == sum(tasks[key].splits[0][0] for key in too_big)


@given(films(), st.data())
def test_the_quick_choice_is_the_one_by_looking_at_everything(asked, data) -> None:
    schedule = Schedule()
    for number, (film, jobs) in enumerate(asked.items()):
        schedule.add(film, jobs, priority=number % 2)
    for n in range(3):
        schedule.worker_joins(f"w{n}")
    busy = schedule.idle.take("a", (), 3)
    running = {}
    for _ in range(25):
        for key, state in list(schedule.state.items()):  # those without workers
            if state == RUNNING and key not in running:
                schedule.done(key)
        schedule.assign()
        for film in schedule.films:
            if data.draw(st.integers(0, 9)) == 0:
                schedule.pause(film, data.draw(st.booleans()))
            if data.draw(st.integers(0, 9)) == 0:
                schedule.set_priority(film, data.draw(st.integers(-1, 1)))
        if busy:
            schedule.worker_free(busy[0], "a")
            expected = _naive_choice(schedule)
            started = [(key, names) for key, names in schedule.assign() if names]
            assert {key for key, _ in started} <= expected and len(started) <= 1
            if started:
                running[started[0][0]] = started[0][1]
                busy = busy[1:]
            else:
                assert not expected or any(schedule.tasks[key].splits[0][0] > 1 for key in expected)
                schedule.idle.remove(busy[0])
        if running and data.draw(st.booleans()):
            key = data.draw(st.sampled_from(sorted(running)))
            busy += running.pop(key)
            schedule.done(key)


def _schedule(workers: int, **films_: list[Task]) -> Schedule:
    schedule = Schedule()
    for n in range(workers):
        schedule.worker_joins(f"w{n}", "a")
    for name, tasks in films_.items():
        schedule.add(name, tasks)
    return schedule


def _names(schedule: Schedule) -> list[str]:
    return [key for key, _ in schedule.assign()]


def _scenes(name: str, count: int, **about) -> list[Task]:
    return [Task(f"{name}-{n}", model="a", **about) for n in range(count)]


def test_films_share_the_workers() -> None:
    schedule = _schedule(4, long=_scenes("long", 9), short=_scenes("short", 2))
    assert sorted(_names(schedule)) == ["long-0", "long-1", "short-0", "short-1"]


def test_a_higher_priority_comes_first_and_may_be_changed() -> None:
    schedule = _schedule(2)
    schedule.add("slow", _scenes("slow", 3))
    schedule.add("urgent", _scenes("urgent", 3), priority=1)
    assert _names(schedule) == ["urgent-0", "urgent-1"]
    schedule.set_priority("slow", 2)
    schedule.worker_free("w0", "a")
    assert _names(schedule) == ["slow-0"]


def test_a_paused_film_starts_nothing_until_it_is_resumed() -> None:
    schedule = _schedule(2, one=_scenes("one", 2), two=_scenes("two", 1))
    schedule.pause("one")
    assert _names(schedule) == ["two-0"] and schedule.waiting == 0
    schedule.pause("one", False)
    assert schedule.waiting == 2 and _names(schedule) == ["one-0"]


def test_the_longest_path_comes_first() -> None:
    """A prior counts with the longest scene behind it, so a long scene's short prior goes first."""
    tasks = [
        Task("p", ((1, 20.0),)), Task("q", ((1, 18.0),)), Task("scene-0", ((1, 1.0),)),
        Task("scene-p", ((1, 1.0),), ("p",)), Task("scene-q", ((1, 5.0),), ("q",)),
    ]  # fmt: skip
    assert longest_paths(tasks) == {"p": 21, "q": 23, "scene-0": 1, "scene-p": 1, "scene-q": 5}
    assert _names(_schedule(3, film=tasks)) == ["q", "p", "scene-0"]


def test_one_prior_serves_two_films_and_starts_once() -> None:
    prior = Task("prior", ((1, 20.0),), model="a")
    one, two = (_scenes(name, 1, needs=("prior",)) for name in ("one", "two"))
    schedule = _schedule(3, one=[prior, *one], two=[prior, *two])
    assert _names(schedule) == ["prior"]
    assert schedule.films["one"].under_way == schedule.films["two"].under_way == 1
    assert schedule.drop("one") == []  # the other film still waits for it
    schedule.done("prior")
    assert _names(schedule) == ["two-0"]
    assert schedule.drop("two") == ["two-0"]
    assert not schedule.tasks and schedule.waiting == 0


def test_workers_that_hold_loras_then_the_model_then_none_are_preferred() -> None:
    idle = Idle()
    idle.add("other", "b")
    idle.add("empty", None)
    idle.add("model", "a")
    idle.add("one lora", "a", ["x"])
    idle.add("both", "a", ["x", "y"])
    order = [idle.take("a", ["y", "x"], 1)[0] for _ in range(5)]
    assert order == ["both", "one lora", "model", "empty", "other"]


def test_among_equals_the_faster_worker_is_preferred() -> None:
    idle = Idle()
    idle.add("slow", "a", speed=1.0)
    idle.add("fast", "a", speed=2.2)
    assert idle.take("a", (), 2) == ("fast", "slow")


def test_workers_of_one_job_are_of_one_node() -> None:
    idle = Idle()
    for n in range(6):
        idle.add(f"w{n}", "a" if n in (0, 4) else None, ["x"] if n == 1 else (), node=f"node-{n % 2}")
    assert idle.take("a", (), 2) == ("w0", "w4")  # both of node 0, and they have the model
    assert idle.take("a", ["x"], 3) == ("w1", "w3", "w5")
    assert set(idle.workers) == {"w2"}

    for n in range(3):
        idle.add(f"far{n}", "a", node=f"lone-{n}")
    assert len(idle.take("a", (), 3)) == 3  # no node has three: from anywhere
    assert len(idle) == 1


@pytest.mark.parametrize(("idle", "waiting", "workers"), [(8, 8, 1), (8, 9, 1), (8, 5, 1), (8, 4, 2), (8, 2, 4),
                                                          (8, 1, 4), (1, 1, 1), (3, 1, 2)])  # fmt: skip
def test_a_scene_is_split_when_idle_workers_outnumber_waiting_jobs(idle: int, waiting: int, workers: int) -> None:
    """As many as make it quickest: six would take longer than four."""
    assert workers_of(SPLITS, idle, waiting) == workers


def test_what_is_fixed_stays() -> None:
    assert workers_of(((2, 5.0),), 8, 1) == workers_of(((2, 5.0),), 1, 9) == 2


def test_the_tail_of_a_film_is_split_and_its_retry_keeps_the_split() -> None:
    schedule = _schedule(6, film=_scenes("film", 3, splits=SPLITS))
    started = schedule.assign()
    assert [len(names) for _, names in started] == [2, 2, 2]
    schedule.retry("film-0", ((2, 6.0),))
    for name in started[0][1]:
        schedule.worker_free(name, "a")
    assert [(key, len(names)) for key, names in schedule.assign()] == [("film-0", 2)]


def test_a_job_of_several_workers_keeps_its_turn() -> None:
    pair, single = [Task("pair", ((2, 1.0),), model="a")], [Task("single", model="a")]
    assert _schedule(3, one=pair, two=single).assign() == [("pair", ("w0", "w1")), ("single", ("w2",))]
    schedule = _schedule(2, one=[*pair, Task("pair-2", ((2, 1.0),))], two=single)
    assert _names(schedule) == ["pair"]
    schedule.worker_free("w0", "a")
    assert _names(schedule) == ["single"]  # the turn of the film that has nothing under way
    schedule.done("pair")
    schedule.worker_free("w1", "a")
    schedule.done("single")
    assert _names(schedule) == []
    schedule.add("three", _scenes("three", 1))
    assert _names(schedule) == []  # else single jobs could pass the pair for ever
    schedule.worker_free("w0", "a")
    assert _names(schedule) == ["pair-2"]


def test_a_job_for_more_workers_than_there_are_stops_nobody_and_waits_for_them() -> None:
    schedule = _schedule(1, one=[Task("pair", ((2, 1.0),))], two=_scenes("two", 1))
    assert _names(schedule) == ["two-0"]
    assert schedule.wanted == 3
    schedule.done("two-0")
    schedule.worker_free("w0", "a")
    schedule.worker_joins("w1")
    assert _names(schedule) == ["pair"]


@given(*[st.integers(0, 20)] * 5, st.floats(0, 100))
def test_a_pool_grows_with_the_backlog_and_shrinks_when_idle(now, wanted, limit, kept, idle, seconds) -> None:
    idle = min(idle, now)
    size = pool_size(now, wanted, limit, kept, idle, seconds, patience=30)
    assert size >= min(now - idle, now)  # busy workers stay
    assert kept <= size <= max(now, limit, kept)  # those that are kept stay when no film asks for any (limit 0)
    if wanted > now and limit > now:
        assert size == max(now, min(wanted, limit), kept)
    if seconds < 30:
        assert size >= now
    elif wanted <= kept:
        assert size == max(kept, now - idle)
