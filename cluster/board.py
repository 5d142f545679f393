"""What the studio knows of its films: who asked for what, which jobs are left, under way and done, and what went wrong.

No Ray. Nothing here matters when its process dies: what was asked for lies in the journal, what is done in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from cluster.estimates import job_cost
from cluster.failures import Failures
from cluster.films import Film, FilmRequest, Job, Result, SceneJob, settled_film, settled_scene
from cluster.journal import Asked, Journal
from cluster.patience import StorageAway, StorageFull
from cluster.schedule import Schedule, Task
from cluster.store import DamagedResult, Store
from cluster.times import Times
from engine.errors import InputError
from engine.models import load_bundle
from engine.video import join_videos

GUESS_S = 60.0  # a job of a model whose sizes nobody knows


@dataclass
class UnderWay:
    """A job that workers have. `freed`: when they were handed back, while its result is still being decoded."""

    job: Job
    workers: tuple[str, ...]
    began: float
    freed: float | None = None


class Board:
    """Films go by their requests' keys, jobs by their slots."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self.store, self.journal = store, journal
        self.schedule, self.times, self.failures = Schedule(), Times(), Failures()
        self.kind = ""  # of GPU, of the last job that was finished
        self.asked: dict[str, Asked] = {}
        self.films: dict[str, Film] = {}  # planned ones
        self.jobs: dict[str, Job] = {}  # that are left
        self.under_way: dict[str, UnderWay] = {}
        self.steps: dict[str, tuple[int, int]] = {}  # job key -> steps done, of how many
        self.stored: set[Result] = set()  # results that are in the store
        self.whole: set[str] = set()  # films
        self.errors: dict[str, str] = {}  # film -> why it ended unfinished
        self.paused: set[str] = set()
        self.cancelled: set[str] = set()
        self.to_look_at: dict[str, None] = {}  # films about which the store must be asked

    # what is asked for

    def ask(self, asked: Asked) -> None:
        """Takes a film on, or again: then the store is asked again, and so is every job that failed."""
        key = asked.request.key
        self.withdraw(key)
        self.asked[key] = asked
        (self.paused.add if asked.paused else self.paused.discard)(key)
        self.failures.forget(self._all_jobs(key))
        if film := self.films.pop(key, None):
            self.stored.difference_update({("film", film.key), *(job.result for job in film.jobs)})
        self.to_look_at[key] = None

    def withdraw(self, key: str) -> list[UnderWay]:
        """Nothing more of a film is started; what is under way for it alone is returned."""
        lost = [self.under_way[job] for job in self.schedule.drop(key) if job in self.under_way]
        self.errors.pop(key, None)
        self.to_look_at.pop(key, None)
        self.whole.discard(key)
        self.cancelled.discard(key)
        return lost

    def cancel(self, key: str) -> list[UnderWay]:
        """The same, for good."""
        lost = self.withdraw(key)
        self.cancelled.add(key)
        return lost

    def prioritize(self, key: str, priority: int) -> None:
        """From the next decision on."""
        self.asked[key] = self.asked[key].model_copy(update={"priority": priority})
        if key in self.schedule.films:
            self.schedule.set_priority(key, priority)

    def pause(self, key: str, paused: bool) -> None:
        (self.paused.add if paused else self.paused.discard)(key)
        self.asked[key] = self.asked[key].model_copy(update={"paused": paused})
        if key in self.schedule.films:
            self.schedule.pause(key, paused)

    def state(self, key: str) -> str:
        if key not in self.asked:
            return "unknown"
        return (
            "failed" if key in self.errors else "done" if key in self.whole
            else "cancelled" if key in self.cancelled else "paused" if key in self.paused else "running"
        )  # fmt: skip

    def open(self) -> list[Asked]:
        """Films that are neither whole nor cancelled nor given up."""
        ended = self.whole | self.cancelled | self.errors.keys()
        return [asked for key, asked in self.asked.items() if key not in ended]

    @property
    def most(self) -> int:
        """The most workers that anybody asked for."""
        return max((asked.workers for asked in self.open()), default=0)

    @property
    def together(self) -> int:
        """The most workers that share one job."""
        return max((asked.request.together for asked in self.open()), default=1)

    # jobs

    async def look(self, key: str) -> None:
        """Asks the store how far a film is: its plan's job, the jobs that are left, or the film itself come next."""
        request = self.asked[key].request
        film = self.films.get(key) or await asyncio.to_thread(self._planned, request)
        if film:
            self.films[key] = film
        jobs = self._all_jobs(key)
        await self._update(jobs)
        left = needed(film, self.stored) if film else list(jobs)
        if not left and film:
            await self._finish(key, film)
        elif why := self.failures.end_of([*left, *(job for job in jobs if job.result in self.stored)], self.stored):
            self.errors[key] = why
        else:
            hopeless: set[Result] = set()
            for job in left:
                if self.failures.why_not(job) or not hopeless.isdisjoint(job.needs):
                    hopeless.add(job.result)
            self._add(key, [job for job in left if job.result not in hopeless])

    async def _update(self, jobs: Sequence[Job]) -> None:
        """Brings `stored` up to date."""
        before = self.stored & {job.result for job in jobs}
        now = await asyncio.to_thread(self._stored, jobs)
        self.stored |= now
        self.stored -= before - now  # what was finished meanwhile was in neither

    def _add(self, key: str, jobs: Sequence[Job]) -> None:
        if key in self.cancelled:  # meanwhile
            return
        self.jobs |= {job.slot: job for job in jobs}
        self.schedule.add(key, [self._task(job) for job in jobs], self.asked[key].priority)
        for job in jobs:
            if job.slot in self.under_way:  # since the film was asked for before, and withdrawn
                self.schedule.is_under_way(job.slot)
        if key in self.paused:
            self.schedule.pause(key)

    def _task(self, job: Job) -> Task:
        splits = tuple((run.workers, self._seconds(run)) for run in (job, *_splits(job)))
        needs = tuple(need for _, need in job.needs)
        return Task(job.slot, splits, needs, job.fingerprint, needs if job.kind == "scene" else ())

    def _seconds(self, job: Job) -> float:
        return self.times.seconds(job.kind, job.workers, self.kind if job.workers else "host", _modelled(job))

    def started(self, slot: str, workers: tuple[str, ...]) -> UnderWay | None:
        """A job that the schedule gave out; None when it is not worth trying."""
        job = self.jobs[slot]
        if self.failures.why_not(job):
            self._give_up(job)
            return None
        self.steps[job.key] = 0, 0
        self.under_way[slot] = UnderWay(job, workers, time.monotonic())
        return self.under_way[slot]

    async def settle(self, under_way: UnderWay) -> Job:
        """The job by an execution plan that is on record before its first step, and that all retries keep."""
        job = under_way.job
        if isinstance(job, SceneJob) and job.automatic:
            choice = next(run for run in (job, *_splits(job)) if run.workers == len(under_way.workers)).execution
            under_way.job = new = await asyncio.to_thread(settled_scene, job, self.store, choice)
            self.jobs[job.slot] = new
            for key in self.schedule.films_of(job.slot):
                film = self.films[key]
                scenes = tuple(new if other.slot == job.slot else other for other in film.scenes)
                self.films[key] = replace(film, scenes=scenes)
        return under_way.job

    @property
    def engaged(self) -> set[str]:
        """Workers that have a job, or still decode one."""
        return {name for under_way in self.under_way.values() for name in under_way.workers}

    def finished(self, slot: str, kind: str) -> None:
        """An attempt went well, on this kind of GPU; its result is in the store."""
        done = self.under_way.pop(slot)
        seconds = (done.freed or time.monotonic()) - done.began
        self.failures.finished(done.job)
        self.times.observe(done.job.kind, len(done.workers), kind, _modelled(done.job), seconds)
        self.kind = kind if done.workers else self.kind
        self._done(done.job)

    def _done(self, job: Job) -> None:
        self.stored.add(job.result)
        films = self.schedule.films_of(job.slot)
        self.schedule.done(job.slot)
        self.jobs.pop(job.slot, None)
        self._look_at_ended(films)

    async def failed(self, slot: str, error: Exception, why: str = "") -> str:
        """An attempt went badly: another follows, when what it needs is there again, or none. Returns the reason."""
        job = self.under_way.pop(slot).job
        reason = self.failures.failed(job, error, why)
        with contextlib.suppress(StorageAway):
            if await asyncio.to_thread(self._stored, [job]):  # it was its last word that got lost
                self._done(job)
                return reason
            await self._ask_for_needs(job)
        if self.failures.why_not(job):
            self._give_up(job)
        else:
            self.schedule.retry(slot, ((job.workers, self._seconds(job)),))
        return reason

    async def _ask_for_needs(self, job: Job) -> None:
        """A result that is gone from the store (it was damaged) is made again, before the jobs that need it."""
        for film in self.schedule.films_of(job.slot):
            if known := self.films.get(film):
                needs = [other for other in known.jobs if other.result in job.needs]
                await self._update(needs)
                again = needed(known, self.stored)
                self._add(film, [other for other in again if other.kind != "scene"])

    def _give_up(self, job: Job) -> None:
        self._look_at_ended(self.schedule.give_up(job.slot))

    def _look_at_ended(self, films: Iterable[str]) -> None:
        self.to_look_at |= {key: None for key in films if not self.schedule.films[key].keys}

    # films

    def planning(self) -> bool:
        """Some film's plan is still to be made."""
        return any(asked.request.story and asked.request.key not in self.films for asked in self.open())

    def _all_jobs(self, key: str) -> tuple[Job, ...]:
        request, film = self.asked[key].request, self.films.get(key)
        return *((request.plan_job,) if request.plan_job else ()), *(film.jobs if film else ())

    def _planned(self, request: FilmRequest) -> Film | None:
        try:
            plan = request.stored_plan(self.store)
        except DamagedResult:  # the store no longer counts it: it is made again
            return None
        return settled_film(request.film(plan), self.store) if plan else None

    def _stored(self, jobs: Iterable[Job]) -> set[Result]:
        return {job.result for job in jobs if self.store.record(*job.result) is not None}

    async def _finish(self, key: str, film: Film) -> None:
        """Joins the clips, unless that was done before."""
        request = self.asked[key].request
        try:
            await asyncio.to_thread(_join, self.store, request, film)
        except (DamagedResult, KeyError):  # a clip is made again: the store no longer counts it
            self.to_look_at[key] = None
            return
        except StorageFull as full:
            self.errors[key] = str(full)
            return
        await asyncio.to_thread(self.journal.finish, key, film.key, self._all_jobs(key))
        self.stored.add(("film", film.key))
        self.whole.add(key)
        self.schedule.drop(key)

    def status(self, key: str) -> dict[str, Any]:
        """State (running, paused, cancelled, done, failed, unknown), error, priority, and jobs: kind, id, state (done,
        running, waiting), step, total."""
        if key not in self.asked:
            return {"state": "unknown", "error": None, "jobs": []}
        about = {"state": self.state(key), "error": self.errors.get(key), "priority": self.asked[key].priority}
        return {**about, "jobs": [self._job_status(job) for job in self._all_jobs(key)]}

    def _job_status(self, job: Job) -> dict[str, Any]:
        step, total = self.steps.get(job.key, (0, 0))
        state = "done" if job.result in self.stored else "running" if job.slot in self.under_way else "waiting"
        return {"kind": job.kind, "id": job.label, "state": state, "step": step, "total": total}


def needed(film: Film, stored: set[Result]) -> list[Job]:
    """The jobs that are left: scenes, what they need, and what that needs, each after its needs."""
    left: dict[Result, Job] = {job.result: job for job in film.scenes if job.result not in stored}
    wanted = {need for job in left.values() for need in job.needs}
    for jobs in (film.priors, film.clips):
        missing = {job.result: job for job in jobs if job.result in wanted and job.result not in stored}
        wanted |= {need for job in missing.values() for need in job.needs}
        left = {**missing, **left}
    return list(left.values())


def _join(store: Store, request: FilmRequest, film: Film) -> None:
    """Raises DamagedResult and KeyError for a clip that is not there, StorageFull."""
    if store.record("film", film.key) is not None:
        return
    clips = [store.get(*job.result, "clip.mp4") for job in film.scenes]
    data = join_videos(clips, [scene.narration for scene in film.plan.scenes])
    jobs = *((request.plan_job,) if request.plan_job else ()), *film.jobs
    notes = {
        "scenes": [job.key for job in film.scenes], "sha256": hashlib.sha256(data).hexdigest(),
        "needs": [job.result for job in jobs],
    }  # fmt: skip
    store.put("film", film.key, {"film.mp4": data, "request.json": request.model_dump_json().encode()}, notes)


def _splits(job: Job) -> tuple[SceneJob, ...]:
    """A scene whose degrees are the studio's to choose, by several workers: a branch of guidance each, then Ulysses
    within them, as the model's heads divide. (A step cache allows none.)"""
    if not (isinstance(job, SceneJob) and job.automatic) or job.settings.cache is not None:
        return ()
    shape = _bundle(job.model).shape if _known(job.model) else None
    heads = shape.heads if shape else 1
    degrees = [{"guidance_degree": 2, "ulysses_degree": n} for n in range(1, heads + 1) if heads % n == 0]
    return tuple(job.settled(job.execution.model_copy(update=degree)) for degree in degrees)


_bundle = cache(load_bundle)


def _modelled(job: Job) -> float:
    """Seconds by the cost model."""
    if job.workers == 0:
        return 1.0
    cost = job_cost(job, _bundle(job.model)) if _known(job.model) else None
    return cost.seconds if cost else GUESS_S


@cache
def _known(model: str) -> bool:
    """Its folder is on this machine."""
    with contextlib.suppress(InputError):
        return bool(_bundle(model))
    return False
