"""The studio: stories in, films out. One detached actor per storage, which any client may make or join.

It holds nothing that matters: what was asked for lies in the journal, what is finished in the store. When its process
dies Ray starts it again and it goes on from both.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from typing import Any

import ray

from cluster.delivery import Delivery
from cluster.failures import Failures
from cluster.films import Film, FilmRequest, Job
from cluster.journal import Asked, Journal
from cluster.lease import RENEW_S, Lease, LeaseLost
from cluster.local import NAMESPACE
from cluster.patience import StorageAway, StorageFull
from cluster.pool import Pool
from cluster.schedule import Waiting, assign
from cluster.store import DamagedResult, Store
from cluster.watch import Watch
from engine.errors import InputError
from engine.video import join_videos

logger = logging.getLogger(__name__)
HOSTS = {"plan": "planner", "clips": "index"}  # kinds of job that go to a host of their own


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Studio:
    """`submit`, `status` and `close` are for clients, `progress` for workers; the rest happens in `_run`."""

    def __init__(self, storage: str, device: str) -> None:
        self.store, self.pool = Store(storage), Pool(device)
        self.journal = Journal(self.store)
        context = ray.get_runtime_context()
        self.me = context.current_actor
        self.lease = Lease(self.store, context.get_actor_id())
        self.requests: dict[str, FilmRequest] = {}  # by key, in the order of arrival
        self.films: dict[str, Film] = {}  # request key -> the film, once it is planned
        self.errors: dict[str, str] = {}  # request key -> why it stopped
        self.steps: dict[str, tuple[int, int]] = {}  # job key -> steps done, of how many
        self.failures, self.watch = Failures(), Watch()
        self.hung: dict[str, str] = {}  # job key -> why its processes were ended
        self.running: dict[asyncio.Task[None], tuple[str, tuple[str, ...]]] = {}  # task -> job key, workers
        self.done: set[tuple[str, str]] = set()  # results that are in the store
        self.wake = asyncio.Event()
        self.loop: asyncio.Task[None] | None = None

    # for clients

    async def open(self) -> None:
        """Takes the storage and goes on with the films in its journal. Raises InputError when another has it."""
        if self.loop is None:
            self.lease.acquire()
            self.loop = asyncio.create_task(self._run())
            asked = self.journal.open_films()
            for entry in asked:
                self.requests[entry.request.key] = entry.request
            await self.pool.grow(max((entry.workers for entry in asked), default=0))
            self.wake.set()

    async def submit(self, request: FilmRequest, workers: int) -> str:
        """Takes a film on (again), with at least `workers` workers; returns its key."""
        await self.open()
        key = request.key
        if request.finished(self.store) is None:
            self.journal.ask(Asked(request=request, workers=workers, time=time.time()))
        self.requests[key] = request
        self.errors.pop(key, None)
        self.failures.forget([request.plan_job] if request.plan_job else [])
        if film := self.films.pop(key, None):  # the store is asked again, and so is every job
            self.done.difference_update({("film", film.key), *(job.result for job in film.jobs)})
            self.failures.forget(film.jobs)
        await self.pool.grow(workers)
        if request.story and request.learn and request.library and request.finished(self.store) is None:
            self.pool.host("index").fingerprint.remote(request.model, request.library)  # fills it beside the planning
        self.wake.set()
        return key

    async def status(self, keys: list[str]) -> list[dict[str, Any]]:
        """For each film: state (running, done, failed, unknown), error, and its jobs (kind, id, state, step, total)."""
        await self.open()
        return [self._status(key) for key in keys]

    def _status(self, key: str) -> dict[str, Any]:
        request, film = self.requests.get(key), self.films.get(key)
        if request is None:
            return {"state": "unknown", "error": None, "jobs": []}
        jobs: list[Job] = [request.plan_job] if request.plan_job else []
        state = "failed" if key in self.errors else "done" if film and ("film", film.key) in self.done else "running"
        seen = [self._job_status(job) for job in (*jobs, *(film.jobs if film else ()))]
        return {"state": state, "error": self.errors.get(key), "jobs": seen}

    def _job_status(self, job: Job) -> dict[str, Any]:
        busy = any(job.key == key for key, _ in self.running.values())
        step, total = self.steps.get(job.key, (0, 0))
        state = "done" if job.result in self.done else "running" if busy else "waiting"
        return {"kind": job.kind, "id": job.label, "state": state, "step": step, "total": total}

    async def progress(self, job_key: str, step: int, total: int) -> None:
        self.steps[job_key] = step, total
        self.watch.progress(job_key, step, total)

    async def close(self) -> None:
        """Gives the storage back and forgets what is unfinished, whose askers are gone; the caller ends the actor."""
        if self.loop:
            self.loop.cancel()
        for kind in list(self.pool.hosts):
            await self.pool.end(kind)
        for key in self.requests:
            self.journal.forget(key)
        self.lease.release()

    # the loop

    async def _run(self) -> None:
        while True:
            try:
                self.lease.hold()
                self._end_hung()
                self._plan_films()
                await self._finish_films()
                await self._start_jobs()
                self._give_up_films()
            except LeaseLost:  # two studios must not work on one storage
                os._exit(1)
            except StorageAway as away:  # films are as they were, and are looked at again
                logger.warning("%s", away)
            woken = asyncio.create_task(self.wake.wait())
            await asyncio.wait({woken, *self.running}, timeout=RENEW_S, return_when=asyncio.FIRST_COMPLETED)
            woken.cancel()
            self.wake.clear()
            self.running = {task: what for task, what in self.running.items() if not task.done()}

    async def _start_jobs(self) -> None:
        """Gives every job that can start to its host, or to workers that are free."""
        ready = self._ready()
        for job in {job.key: job for _, job in ready if job.kind in HOSTS}.values():
            self._start(job, ())
        if not any(kind == "plan" for kind, _ in self._kinds()):
            await self.pool.end("planner")  # it needs much memory, and planning is done
        busy = {name for _, names in self.running.values() for name in names}
        idle = {worker: model for worker, model in self.pool.resident.items() if worker not in busy}
        waiting = [Waiting(job.key, film, job.fingerprint, job.workers) for film, job in ready if job.kind not in HOSTS]
        jobs = {job.key: job for _, job in ready}
        for key, workers in assign(waiting, idle, self._under_way()):
            self._start(jobs[key], workers)

    def _start(self, job: Job, workers: tuple[str, ...]) -> None:
        self.running[asyncio.create_task(self._attempt(job, workers))] = (job.key, workers)

    def _kinds(self) -> list[tuple[str, str]]:
        """(kind, key) of the open films' jobs that are not stored yet."""
        return [job.result for request in self._open() for job in self._jobs(request) if not self._stored(job)]

    def _open(self) -> list[FilmRequest]:
        """Films that are neither whole nor given up."""
        return [
            request for key, request in self.requests.items()
            if key not in self.errors and not ((film := self.films.get(key)) and ("film", film.key) in self.done)
        ]  # fmt: skip

    def _all_jobs(self, request: FilmRequest) -> tuple[Job, ...]:
        return *((request.plan_job,) if request.plan_job else ()), *self._jobs(request)

    def _jobs(self, request: FilmRequest) -> tuple[Job, ...]:
        """What is known of a film's jobs: its plan's alone, then all others."""
        film = self.films.get(request.key)
        return film.jobs if film else (request.plan_job,) if request.plan_job else ()

    def _ready(self) -> list[tuple[int, Job]]:
        """Jobs of open films that could start now, with the film's place in the order of arrival."""
        busy = {key for key, _ in self.running.values()}
        return [
            (number, job) for number, request in enumerate(self._open()) for job in self._jobs(request)
            if job.key not in busy and not self.failures.why_not(job)
            and not self._stored(job) and all(self._has(*need) for need in job.needs)
        ]  # fmt: skip

    def _under_way(self) -> dict[int, int]:
        busy = {key for key, names in self.running.values() if names}
        return {n: sum(job.key in busy for job in self._jobs(request)) for n, request in enumerate(self._open())}

    def _stored(self, job: Job) -> bool:
        return self._has(*job.result)

    def _has(self, kind: str, key: str) -> bool:
        if (kind, key) not in self.done and self.store.record(kind, key) is not None:
            self.done.add((kind, key))
        return (kind, key) in self.done

    async def _attempt(self, job: Job, workers: tuple[str, ...]) -> None:
        """One attempt at a job. A lost process costs an attempt; so does an error in the job."""
        self.steps[job.key] = 0, 0
        delivery = Delivery(self.store, self.me, job)
        attempt = self.journal.started(job, workers)
        self.watch.started(job)
        try:
            if job.kind == "plan":
                await self.pool.host("planner").plan.remote(job, delivery)
            elif job.kind == "clips":
                await self.pool.host("index").retrieve.remote(job, delivery)
            else:
                await self._on_workers(job, workers, delivery)
            self.failures.finished(job)
            self.watch.ended(job, well=True)
            self.journal.ended(attempt)
        except Exception as error:
            self.watch.ended(job, well=False)
            self.journal.ended(attempt, self.failures.failed(job, error, self.hung.pop(job.key, "")))
            lost = isinstance(error, ray.exceptions.RayActorError)
            if lost and job.kind in HOSTS:
                self.pool.hosts.pop(HOSTS[job.kind], None)
            elif len(workers) > 1:  # the others of a lost worker's group may hang in an exchange
                await self.pool.renew(workers)
            elif lost:
                await self.pool.renew_lost(workers[0])

    async def _on_workers(self, job: Job, workers: tuple[str, ...], delivery: Delivery) -> None:
        handles = [self.pool.workers[name] for name in workers]
        if job.kind == "prior":
            await handles[0].learn.remote(job, delivery)
        else:
            address = await handles[0].address.remote() if len(handles) > 1 else ""
            await asyncio.gather(
                *(handle.render.remote(job, delivery, rank, address) for rank, handle in enumerate(handles))
            )
        for name in workers:
            self.pool.resident[name] = job.fingerprint

    def _end_hung(self) -> None:
        """Ends the processes of jobs that make no progress; each costs an attempt like a process that died."""
        for key, why in self.watch.hung().items():
            job = self.watch.seen.pop(key).job
            self.hung[key] = why
            names = next((names for k, names in self.running.values() if k == key), ())
            for actor in [self.pool.workers[name] for name in names] or [self.pool.host(HOSTS[job.kind])]:
                ray.kill(actor, no_restart=False)

    def _give_up_films(self) -> None:
        """Films of which nothing more can be made end; what is finished of them stays."""
        busy = {key for key, _ in self.running.values()}
        for request in self._open():
            jobs = self._jobs(request)
            if busy.isdisjoint(job.key for job in jobs) and (why := self.failures.end_of(jobs, self.done)):
                self.errors[request.key] = why

    def _plan_films(self) -> None:
        """Films whose plan is there now become graphs of jobs."""
        for request in self._open():
            if request.key in self.films or (request.plan_job and not self._stored(request.plan_job)):
                continue
            try:
                if plan := request.stored_plan(self.store):
                    self.films[request.key] = request.film(plan)
            except DamagedResult:  # the store no longer counts it: it is made again
                assert request.plan_job
                self.done.discard(request.plan_job.result)

    async def _finish_films(self) -> None:
        """Joins the clips of films whose scenes are all there."""
        for request in self._open():
            film = self.films.get(request.key)
            if film is None or not all(self._stored(job) for job in film.scenes):
                continue
            if not self._has("film", film.key):
                try:
                    clips = [self.store.get(*job.result, "clip.mp4") for job in film.scenes]
                except (DamagedResult, KeyError):  # it is made again: the store no longer counts it
                    self.done.difference_update(job.result for job in film.scenes)
                    self.wake.set()
                    continue
                told = [scene.narration for scene in film.plan.scenes]
                data = await asyncio.to_thread(join_videos, clips, told)
                notes = {
                    "scenes": [job.key for job in film.scenes], "sha256": hashlib.sha256(data).hexdigest(),
                    "needs": [job.result for job in self._all_jobs(request)],
                }  # fmt: skip
                files = {"film.mp4": data, "request.json": request.model_dump_json().encode()}
                try:
                    self.store.put("film", film.key, files, notes)
                except StorageFull as full:
                    self.errors[request.key] = str(full)
                    continue
            await asyncio.to_thread(self.journal.finish, request.key, film.key, film.jobs)
            self.done.add(("film", film.key))


def open_studio(store: Store, device: str) -> Any:
    """The storage's studio on the cluster that we are connected to, made when there is none.

    Raises InputError when a studio of another cluster has the storage.
    """
    name = "studio-" + hashlib.sha256(store.url.encode()).hexdigest()[:12]
    options: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "get_if_exists": True, "lifetime": "detached"}
    studio = Studio.options(**options).remote(store.url, device)  # type: ignore[attr-defined]
    try:
        ray.get(studio.open.remote())
    except ray.exceptions.RayTaskError as error:
        ray.kill(studio)
        raise (error.cause if isinstance(error.cause, InputError) else error) from None
    return studio
