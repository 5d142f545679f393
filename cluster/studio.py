"""The studio: stories in, films out. One detached actor per storage, which any client may make or join.

It holds nothing that matters: what was asked for lies in the journal, what is finished in the store. When its process
dies Ray starts it again and it goes on from both.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from typing import Any

import ray
from pydantic import BaseModel

from actors.worker import Worker
from cluster.films import FilmRequest, SceneJob
from cluster.lease import RENEW_S, Lease
from cluster.local import NAMESPACE, SLOT
from cluster.schedule import Waiting, assign
from cluster.store import DamagedResult, Store
from engine.errors import InputError
from engine.video import join_videos

PLACEMENT_S = 60.0  # a worker that cannot be placed for so long is an error
ATTEMPTS = 3  # of one job, each lost with its worker or failed by itself
JOURNAL = "journal/films"


class AskedFor(BaseModel):
    """The journal's word on a film that is not finished: what, with how many workers, and when."""

    request: FilmRequest
    workers: int
    time: float


class SceneDelivery:
    """Given to a worker with a scene job: where progress and the result go."""

    def __init__(self, store: Store, studio: Any, key: str) -> None:
        self.store, self.studio, self.key = store, studio, key

    def report(self, step: int) -> None:
        self.studio.progress.remote(self.key, step)

    def put(self, files: dict[str, bytes], notes: dict[str, Any]) -> None:
        self.store.put("scene", self.key, files, notes)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Studio:
    """`submit`, `status` and `close` are for clients, `progress` for workers; the rest happens in `_run`."""

    def __init__(self, storage: str, device: str) -> None:
        self.store, self.device = Store(storage), device
        context = ray.get_runtime_context()
        self.me = context.current_actor
        self.lease = Lease(self.store, context.get_actor_id())
        self.films: dict[str, FilmRequest] = {}  # by key, in the order of arrival
        self.errors: dict[str, str] = {}  # film key -> why it stopped
        self.steps: dict[str, int] = {}  # scene key -> denoising steps done
        self.attempts: dict[str, int] = {}
        self.workers: dict[str, Any] = {}
        self.resident: dict[str, str | None] = {}  # worker -> the model it holds
        self.running: dict[asyncio.Task[None], tuple[str, str]] = {}  # task -> scene key, worker
        self.done: set[str] = set()  # keys of scenes and films in the store
        self.wake = asyncio.Event()
        self.loop: asyncio.Task[None] | None = None

    # for clients

    async def open(self) -> None:
        """Takes the storage and goes on with the films in its journal. Raises InputError when another has it."""
        if self.loop is None:
            self.lease.acquire()
            self.loop = asyncio.create_task(self._run())
            asked = [
                AskedFor.model_validate_json(self.store.read(f"{JOURNAL}/{n}") or b"") for n in self.store.list(JOURNAL)
            ]
            for entry in sorted(asked, key=lambda entry: entry.time):
                self.films[entry.request.key] = entry.request
            await self._grow(max((entry.workers for entry in asked), default=0))
            self.wake.set()

    async def submit(self, request: FilmRequest, workers: int) -> str:
        """Takes a film on (again), with at least `workers` workers; returns its key."""
        await self.open()
        key = request.key
        if self.store.record("film", key) is None:
            entry = AskedFor(request=request, workers=workers, time=time.time())
            self.store.write_new(f"{JOURNAL}/{key}.json", entry.model_dump_json().encode())
        self.films[key] = request
        self.errors.pop(key, None)
        for job in request.jobs:
            self.attempts.pop(job.key, None)
        self.done.difference_update({key, *(job.key for job in request.jobs)})  # the store is asked again
        await self._grow(workers)
        self.wake.set()
        return key

    async def status(self, keys: list[str]) -> list[dict[str, Any]]:
        """For each film: state (running, done, failed, unknown), error, and for each scene its state and steps."""
        await self.open()
        return [self._film_status(key) for key in keys]

    def _film_status(self, key: str) -> dict[str, Any]:
        film, busy = self.films.get(key), {scene for scene, _ in self.running.values()}
        if film is None:
            return {"state": "done" if self.store.record("film", key) else "unknown", "scenes": []}
        scenes = []
        for job in film.jobs:
            state = "done" if job.key in self.done else "running" if job.key in busy else "waiting"
            scenes.append({"id": job.scene.id, "state": state, "step": self.steps.get(job.key, 0)})
        state = "failed" if key in self.errors else "done" if key in self.done else "running"
        return {"state": state, "error": self.errors.get(key), "scenes": scenes}

    async def progress(self, scene_key: str, step: int) -> None:
        self.steps[scene_key] = step

    async def close(self) -> None:
        """Gives the storage back and forgets what is unfinished, whose askers are gone; the caller ends the actor."""
        if self.loop:
            self.loop.cancel()
        for key in self.films:
            self.store.delete(f"{JOURNAL}/{key}.json")
        self.lease.release()

    # the loop

    async def _run(self) -> None:
        renewed = time.monotonic()
        while True:
            waiting = self._waiting()
            idle = {w: m for w, m in self.resident.items() if w not in {name for _, name in self.running.values()}}
            for key, worker in assign([w for w, _ in waiting], idle, self._under_way()):
                job = next(job for w, job in waiting if w.key == key)
                task = asyncio.create_task(self._render(job, worker))
                self.running[task] = (key, worker)
            await self._finish_films()
            if time.monotonic() - renewed > RENEW_S:
                self.lease.renew()
                renewed = time.monotonic()
            woken = asyncio.create_task(self.wake.wait())
            await asyncio.wait({woken, *self.running}, timeout=RENEW_S, return_when=asyncio.FIRST_COMPLETED)
            woken.cancel()
            self.wake.clear()
            self.running = {task: what for task, what in self.running.items() if not task.done()}

    def _open_films(self) -> list[FilmRequest]:
        return [f for key, f in self.films.items() if key not in self.errors and key not in self.done]

    def _waiting(self) -> list[tuple[Waiting, SceneJob]]:
        """Jobs of open films that are neither stored nor under way."""
        busy, out = {scene for scene, _ in self.running.values()}, []
        for number, film in enumerate(self._open_films()):
            for job in film.jobs:
                if job.key not in busy and not self._stored("scene", job.key):
                    out.append((Waiting(job.key, number, job.fingerprint), job))
        return out

    def _under_way(self) -> dict[int, int]:
        busy = {scene for scene, _ in self.running.values()}
        return {n: sum(job.key in busy for job in film.jobs) for n, film in enumerate(self._open_films())}

    def _stored(self, kind: str, key: str) -> bool:
        if key not in self.done and self.store.record(kind, key) is not None:
            self.done.add(key)
        return key in self.done

    async def _render(self, job: SceneJob, worker: str) -> None:
        """One attempt at a scene. A lost worker costs an attempt; so does an error in the scene."""
        self.steps[job.key] = 0
        try:
            await self.workers[worker].render.remote(job, SceneDelivery(self.store, self.me, job.key))
            self.resident[worker] = job.fingerprint
        except Exception as error:
            lost = isinstance(error, ray.exceptions.RayActorError)
            self.resident[worker] = None if lost else self.resident[worker]
            self.attempts[job.key] = self.attempts.get(job.key, 0) + 1
            if self.attempts[job.key] >= ATTEMPTS:
                cause = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
                why = f"scene {job.scene.id}: failed {ATTEMPTS} times: {cause}"
                self.errors |= {
                    key: why for key, film in self.films.items() if job in film.jobs and key not in self.done
                }
            if lost:
                await self._await_worker(worker)

    async def _finish_films(self) -> None:
        """Joins the clips of films whose scenes are all there."""
        for film in self._open_films():
            if not all(self._stored("scene", job.key) for job in film.jobs):
                continue
            if not self._stored("film", film.key):
                try:
                    clips = [self.store.get("scene", job.key, "clip.mp4") for job in film.jobs]
                except (DamagedResult, KeyError):  # it is made again: the store no longer counts it
                    self.done.difference_update(job.key for job in film.jobs)
                    self.wake.set()
                    continue
                data = await asyncio.to_thread(join_videos, clips)
                notes = {"scenes": [job.key for job in film.jobs], "sha256": hashlib.sha256(data).hexdigest()}
                self.store.put(
                    "film", film.key, {"film.mp4": data, "request.json": film.model_dump_json().encode()}, notes
                )
                self.done.add(film.key)
            self.store.delete(f"{JOURNAL}/{film.key}.json")

    async def _grow(self, workers: int) -> None:
        """Until the pool has this many workers."""
        await asyncio.gather(*(self._new_worker() for _ in range(len(self.workers), workers)))

    async def _new_worker(self) -> None:
        name, gpus = f"worker-{uuid.uuid4().hex[:8]}", 1 if self.device == "cuda" else 0
        options: dict[str, Any] = {"name": name, "resources": {SLOT: 1}, "num_gpus": gpus}
        self.workers[name] = Worker.options(**options).remote(self.device)  # type: ignore[attr-defined]
        try:
            await self._await_worker(name)
        except TimeoutError:
            ray.kill(self.workers.pop(name))
            there = {k: v for k, v in ray.cluster_resources().items() if k in (SLOT, "GPU", "CPU")}
            asked = f"1 {SLOT}{' and 1 GPU' if gpus else ''}"
            raise InputError(
                f"--workers: a worker asks {asked} and found no place in {PLACEMENT_S:.0f} s; the cluster has "
                f"{json.dumps(there)} and {len(self.resident)} workers run; ask for fewer, or start nodes with "
                f"--resources='{{\"{SLOT}\": N}}'"
            ) from None
        self.resident[name] = None  # from now on it is given work

    async def _await_worker(self, name: str) -> None:
        """Until the worker's process runs (again)."""
        deadline = time.monotonic() + PLACEMENT_S
        while time.monotonic() < deadline:
            try:
                await asyncio.wait_for(self.workers[name].ready.remote(), deadline - time.monotonic())
                return
            except ray.exceptions.RayActorError:
                await asyncio.sleep(0.2)
        raise TimeoutError(name)


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
