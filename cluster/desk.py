"""The studio's front desk: what clients may ask of it, and what its workers tell it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import ray

from actors.orphans import end_with_node
from cluster.attempt import end_processes
from cluster.board import Board, UnderWay
from cluster.films import FilmRequest, Job
from cluster.journal import Asked, JobEvent, Journal
from cluster.lease import Lease
from cluster.pool import WORKER, Pool
from cluster.store import Store
from cluster.telemetry import Telemetry
from cluster.watch import Watch
from engine.errors import InputError

logger = logging.getLogger(__name__)


class Desk:
    """`progress` is for workers, `close` for who made the studio, all else for clients. The loop is the studio's."""

    def __init__(self, storage: str, device: str, worker: str = WORKER) -> None:
        end_with_node()
        context = ray.get_runtime_context()
        self.me = context.current_actor
        self.store = Store(storage)
        self.lease, self.journal = Lease(self.store, context.get_actor_id()), Journal(self.store)
        self.board, self.watch = Board(self.store, self.journal), Watch()
        self.pool = Pool(device, self.board.schedule, self.board.times, context.get_actor_id(), worker)
        self.telemetry = Telemetry()
        self.ended: dict[str, str] = {}  # job key -> why its processes were ended
        self.awake, self.opening = asyncio.Event(), asyncio.Lock()
        self.loop: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        raise NotImplementedError

    def _loop_ended(self, loop: asyncio.Task[None]) -> None:
        """By a mistake of ours: nobody must wait for ever. Whoever asks next starts it anew."""
        if not loop.cancelled() and (error := loop.exception()):
            logger.error("the studio's loop ended", exc_info=error)
            self.board.errors |= {asked.request.key: f"the studio: {error!r}" for asked in self.board.open()}
            self.loop = None

    async def open(self) -> None:
        """Takes the storage and goes on with the films in its journal. Raises InputError when another has it."""
        async with self.opening:  # a call that Ray sends again must find no place before the old ones are cleared
            if self.loop is not None:
                return
            self.lease.acquire()
            if not self.pool.workers:
                await asyncio.to_thread(self.pool.places.clear)
            self.loop = asyncio.create_task(self._run())
            self.loop.add_done_callback(self._loop_ended)
            asked = self.journal.open_films()
            for entry in asked:
                self.board.ask(entry)
        most = max((min(e.workers, e.request.workers) for e in asked), default=0)
        await self.pool.grow(most, self.board.together)
        self.awake.set()

    async def submit(self, request: FilmRequest, workers: int, priority: int = 0) -> str:
        """Takes a film on (again), with up to `workers` workers; returns its key. Higher priorities come first."""
        await self.open()
        asked = Asked(request=request, workers=workers, time=time.time(), priority=priority)
        unfinished = await asyncio.to_thread(request.finished, self.store) is None
        if unfinished:
            self.journal.ask(asked)
        await self.pool.grow(min(workers, request.workers), request.together)
        if request.story and request.learn and request.library and unfinished:
            self.pool.host("index").fingerprint.remote(request.model, request.library)  # fills it beside the planning
        self.board.ask(asked)
        self.awake.set()
        return request.key

    @ray.method(enable_task_events=False)
    async def status(self, keys: list[str]) -> list[dict[str, Any]]:
        """For each film what `Board.status` says."""
        await self.open()
        return [self.board.status(key) for key in keys]

    async def films(self) -> list[str]:
        """Keys of all films that this studio heard of, in the order of arrival."""
        await self.open()
        return list(self.board.asked)

    async def prioritize(self, key: str, priority: int) -> None:
        """From the next decision on. Raises InputError for a film that is unknown or at its end."""
        self._unfinished(key, "prioritized")
        self.board.prioritize(key, priority)
        self._changed(key)

    async def pause(self, key: str, paused: bool = True) -> None:
        """Starts no more of the film's jobs, or does so again; what is under way goes on. Raises InputError."""
        self._unfinished(key, "paused" if paused else "resumed")
        self.board.pause(key, paused)
        self._changed(key)

    async def cancel(self, key: str) -> None:
        """Nothing more of the film is made; what is finished stays in the store. Workers that only this film needed are
        taken from it at once. Raises InputError for a film that is unknown or at its end."""
        self._unfinished(key, "cancelled")
        for under_way in self.board.cancel(key):
            if under_way.freed is None:
                self.ended[under_way.job.key] = "the film was cancelled"
                end_processes(self.pool, under_way.job, under_way.workers)
        await asyncio.to_thread(self.journal.forget, key)
        self.awake.set()

    def _unfinished(self, key: str, what: str) -> None:
        state = self.board.state(key)
        if state == "unknown":
            raise InputError(f"there is no film {key} in {self.store.url}; `dreamrunner status` shows what is")
        if state not in ("running", "paused"):
            raise InputError(f"the film {key} is {state} and cannot be {what}")

    def _changed(self, key: str) -> None:
        self.journal.ask(self.board.asked[key])
        self.awake.set()

    @ray.method(enable_task_events=False)  # Ray would keep a record of every call
    async def progress(self, job_key: str, step: int, total: int) -> None:
        self.board.steps[job_key] = step, total
        self.watch.progress(job_key, step, total)
        if seen := self.watch.seen.get(job_key):
            self.telemetry.step(seen.job, step)

    def _began(self, job: Job, films: list[str], workers: tuple[str, ...]) -> JobEvent:
        """An attempt begins: the journal, the watch over what hangs and the outside are told."""
        self.watch.started(job)
        self.telemetry.started(job, films, workers)
        return self.journal.started(job, workers)

    def _over(self, attempt: JobEvent, under_way: UnderWay, films: list[str], why: str | None = None) -> None:
        """It ended; `why` it failed, None when it did not."""
        job, freed = under_way.job, under_way.freed
        self.watch.ended(job, well=why is None)
        self.journal.ended(attempt, why, freed and time.time() - (time.monotonic() - freed))
        self.telemetry.ended(job, films, under_way.workers, time.time() - attempt.start, why)

    @ray.method(enable_task_events=False)
    async def hand_back(self, job_key: str) -> None:
        """A job's workers can be given another while its result is decoded, encoded and stored."""
        for under_way in self.board.under_way.values():
            if under_way.job.key == job_key:
                self._hand_back(under_way)

    def _hand_back(self, under_way: UnderWay) -> None:
        if under_way.freed is None:
            under_way.freed = time.monotonic()
            self.pool.used(under_way.workers, under_way.job)
            self.pool.free(under_way.workers)
            self.awake.set()

    async def close(self) -> None:
        """Gives the storage back and forgets what is unfinished, whose askers are gone; the caller ends the actor."""
        if self.loop:
            self.loop.cancel()
        for kind in list(self.pool.hosts):
            await self.pool.end(kind)
        for key in self.board.asked:
            self.journal.forget(key)
        self.lease.release()
