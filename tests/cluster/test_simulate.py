"""The simulated cluster keeps the rules that a real one must keep, and the schedule's promises hold in small."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulate import Maker, at_start, one_day, p95
from cluster.schedule import Schedule
from cluster.simulate import Fifo, Machines, Outcome, SimFilm, SimJob, Simulation, bound, simulate

SPLITS = ((1, 10.0), (2, 6.0), (4, 4.0))


@st.composite
def films(draw) -> list[SimFilm]:
    """A few films; priors are shared by some of them."""
    out = []
    for number in range(draw(st.integers(1, 4))):
        priors = [
            SimJob(f"prior-{n}", "prior", ((1, 50.0),)) for n in draw(st.sets(st.integers(0, 3), max_size=3))
        ]  # fmt: skip
        scenes = []
        for n in range(draw(st.integers(0, 6))):
            needs = tuple(job.key for job in priors if draw(st.booleans()))
            splits = draw(st.sampled_from([SPLITS, SPLITS[:1], ((2, 5.0),)]))
            scenes.append(SimJob(f"{number}-{n}", "scene", splits, draw(st.floats(0.5, 2)), needs))
        arrives, priority = draw(st.floats(0, 100)), draw(st.integers(0, 1))
        out.append(SimFilm(f"film-{number}", (*priors, *scenes), arrives, priority))
    return out


def _check(asked: list[SimFilm], outcome: Outcome) -> None:
    """All jobs are done once, after what they need and after a film asked for them; no worker does two things."""
    jobs = {job.key: job for film in asked for job in film.jobs}
    ended = {key: end for key, _, _, end, well in outcome.spans if well}
    assert sum(well for *_, well in outcome.spans) == len(jobs) and set(ended) == set(jobs)
    for key, names, start, _, _ in outcome.spans:
        assert all(ended[need] <= start for need in jobs[key].needs)
        assert start >= min(film.arrives for film in asked if key in {job.key for job in film.jobs})
        assert len(names) in dict(jobs[key].modelled)
    by_worker: dict[str, list[tuple[float, float]]] = {}
    for _, names, start, end, _ in outcome.spans:
        for name in names:
            by_worker.setdefault(name, []).append((start, end))
    for spans in by_worker.values():
        spans.sort()
        assert all(one[1] <= other[0] for one, other in pairwise(spans))
    for film in asked:
        last = max((ended[job.key] for job in film.jobs), default=film.arrives)
        assert outcome.latency[film.name] == pytest.approx(max(0.0, last - film.arrives))
    assert sum((end - start) * len(names) for _, names, start, end, _ in outcome.spans) == pytest.approx(outcome.busy)


@settings(max_examples=60)
@given(films(), st.integers(2, 6), st.sampled_from([0.0, 0.3]), st.booleans(), st.integers(0, 5))
def test_whatever_is_asked_for_is_done_by_the_rules(asked, workers, failures, fifo, seed) -> None:
    machines = Machines(workers, failures)
    outcome = simulate(asked, machines, Fifo() if fifo else None, seed, keep_spans=True)
    _check(asked, outcome)
    again = simulate(asked, machines, Fifo() if fifo else None, seed, keep_spans=True)
    assert again.spans == outcome.spans  # the same seed, the same history
    together = [SimFilm(film.name, film.jobs) for film in asked]
    at_once = simulate(together, machines, Fifo() if fifo else None, seed)
    assert at_once.makespan >= bound(together, workers, at_once.lost) * (1 - 1e-9)


@settings(max_examples=30)
@given(films(), st.integers(0, 5))
def test_a_job_keeps_the_workers_that_were_chosen_first(asked, seed) -> None:
    """The number of workers is part of a result's name: a retry has as many."""
    outcome = simulate(asked, Machines(4, failures=0.4), seed=seed, keep_spans=True)
    chosen: dict[str, int] = {}
    for key, names, *_ in outcome.spans:
        assert chosen.setdefault(key, len(names)) == len(names)


def test_a_failure_loses_what_was_not_saved() -> None:
    """A worker's death costs less than one save's distance and the way back."""
    film = SimFilm("f", (SimJob("p", "prior", ((1, 1000.0),)),))
    outcome = simulate([film], Machines(1, failures=0.5, load_model=0, restart=10), seed=3, keep_spans=True)
    failed = sum(not well for *_, well in outcome.spans)
    assert failed >= 1
    assert 0 < outcome.lost <= failed * 50
    assert outcome.makespan == pytest.approx(1000 + outcome.lost + 10 * failed)


def test_a_worker_stays_with_its_model() -> None:
    """Two films with a model each on two workers: each model is loaded once, on one of them."""
    jobs = {m: tuple(SimJob(f"{m}-{n}", "scene", ((1, 10.0),), model=m) for n in range(8)) for m in ("2B", "5B")}
    simulation = Simulation([SimFilm(m, own) for m, own in jobs.items()], Machines(2), Schedule(), keep_spans=True)
    outcome = simulation.run()
    for model in jobs:
        assert len({names for key, names, *_ in outcome.spans if key.startswith(model)}) == 1
    assert outcome.makespan == 20 + 80


@pytest.mark.parametrize("seed", [0, 1])
def test_the_studios_schedule_is_near_the_bound_and_before_fifo(seed: int) -> None:
    """The goals of the benchmark, with fewer workers."""
    deep, _, _ = at_start("deep", 30, seed)
    shallow, fifo, _ = at_start("shallow", 200, seed)
    assert deep <= 1.03
    assert shallow <= 1.15 and shallow < fifo


def test_a_days_films_wait_less() -> None:
    ours, fifo = one_day(8, 0.6, seed=0)
    assert p95(ours) < 0.8 * p95(fifo)


def test_the_same_seed_makes_the_same_films() -> None:
    assert Maker(3).films(200, 40, 1) == Maker(3).films(200, 40, 1) != Maker(4).films(200, 40, 1)
