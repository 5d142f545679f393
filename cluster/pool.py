"""The actors that the studio gives jobs to: a pool of GPU workers, and the planner and the index while needed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import ray

from actors.index import Index
from actors.planner import Planner
from cluster.board import Board
from cluster.films import Job, SceneJob
from cluster.local import SLOT
from cluster.places import Places
from cluster.schedule import Schedule, pool_size
from cluster.times import Times
from engine.errors import InputError

WORKER = "actors.worker:Worker"
PLACEMENT_S = 60.0  # an actor that cannot be placed for so long is an error
PATIENCE_S = float(os.environ.get("DREAMRUNNER_IDLE_S", 300))  # workers that nothing needed for so long are ended
KEPT = 1  # but for these: the next film begins at once
MAX_RESIDENT_LORAS = 16  # as engine/adapters.py has it; what workers hold is only guessed here

logger = logging.getLogger(__name__)


@dataclass
class Holds:
    """What a worker computes on, and what it has resident as far as the studio knows."""

    kind: str
    node: str
    model: str | None = None
    loras: dict[str, None] = field(default_factory=dict)  # the least recently used first


class Pool:
    """Workers by name; the schedule hears of each that comes, is free, or goes."""

    def __init__(self, device: str, schedule: Schedule, times: Times, owner: str, worker: str = WORKER) -> None:
        self.device, self.schedule, self.times, self.worker = device, schedule, times, worker
        self.places = Places(owner, gpus=1 if device == "cuda" else 0)
        self.workers: dict[str, Any] = {}
        self.holds: dict[str, Holds] = {}  # of workers that are ready
        self.hosts: dict[str, Any] = {}  # "planner", "index"
        self.why_not_more = ""
        self._needed = time.monotonic()  # when all workers were last needed
        self._growing: asyncio.Task[None] | None = None

    # how many

    async def grow(self, workers: int, together: int = 1) -> None:
        """Until the pool has this many workers, with room side by side for scenes that take so many `together`. Raises
        InputError when the cluster has no place for one."""
        self._needed = math.inf  # by whoever asks; the schedule may not know yet what for
        try:
            await asyncio.gather(*map(self._joined, self._create(workers - len(self.workers), together)))
        finally:
            self._needed = time.monotonic()

    def fit(self, board: Board, awake: asyncio.Event) -> None:
        """Grows (in the background) and shrinks with what waits."""
        now = time.monotonic()
        if self.schedule.wanted >= len(self.workers):
            self._needed = max(self._needed, now)
        idle = self.schedule.idle
        size = pool_size(
            len(self.workers), self.schedule.wanted, board.most, KEPT, len(idle), now - self._needed, PATIENCE_S
        )
        for name in [name for name in idle.workers if name not in board.engaged][: len(self.workers) - size]:
            self.end_worker(name)
        if size > len(self.workers) and self.schedule.waiting and self._growing is None:
            self._growing = asyncio.create_task(self._grow_behind(size, board.together, awake))

    async def _grow_behind(self, size: int, together: int, awake: asyncio.Event) -> None:
        try:
            await self.grow(size, together)
            self.why_not_more = ""
        except InputError as error:
            self.why_not_more = str(error)
            logger.warning("%s", error)
        except Exception:  # a GCS that is away, say: it is tried again
            logger.exception("growing to %d workers", size)
            await asyncio.sleep(1)
        finally:
            self._growing = None
        awake.set()

    def _create(self, count: int, together: int) -> list[str]:
        names = [f"worker-{uuid.uuid4().hex[:8]}" for _ in range(count)]
        module, _, actor = self.worker.partition(":")
        for name, options in zip(names, self.places.take(names, together), strict=True):
            self.workers[name] = getattr(import_module(module), actor).options(**options).remote(self.device)
        return names

    async def _joined(self, name: str) -> None:
        try:
            self.holds[name] = about = await self.await_worker(name)
        except TimeoutError:
            ray.kill(self.workers.pop(name))
            self.places.give_back(name)
            there = {k: v for k, v in ray.cluster_resources().items() if k in (SLOT, "GPU", "CPU")}
            asked = f"1 {SLOT}{' and 1 GPU' if self.device == 'cuda' else ''}"
            raise InputError(
                f"--workers: a worker asks {asked} and found no place in {PLACEMENT_S:.0f} s; the cluster has "
                f"{json.dumps(there)} and {len(self.holds)} workers run; ask for fewer, or start nodes with "
                f"--resources='{{\"{SLOT}\": N}}'"
            ) from None
        self.schedule.worker_joins(name, None, self._speed(name), about.node)  # from now on it is given work

    async def await_worker(self, name: str) -> Holds:
        """When the worker's process runs (again): what it is, with nothing resident."""
        deadline = time.monotonic() + PLACEMENT_S
        while time.monotonic() < deadline:
            try:
                return Holds(*await asyncio.wait_for(self.workers[name].where.remote(), deadline - time.monotonic()))
            except ray.exceptions.RayError:  # it is being started again, or has no place at the moment
                await asyncio.sleep(0.2)
        raise TimeoutError(name)

    def end_worker(self, name: str) -> None:
        self.schedule.worker_leaves(name)
        self.holds.pop(name, None)
        ray.kill(self.workers.pop(name))
        self.places.give_back(name)

    # what they have

    def used(self, names: Iterable[str], job: Job) -> None:
        """These workers have done a job: they hold its model, and its LoRAs."""
        for name in names:
            holds = self.holds.get(name)
            if holds is None:  # it left the pool meanwhile
                continue
            if holds.model != job.fingerprint:
                self.holds[name] = holds = Holds(holds.kind, holds.node, job.fingerprint)
            for use in job.priors if isinstance(job, SceneJob) else ():
                holds.loras.pop(use.key, None)
                holds.loras[use.key] = None
            for key in list(holds.loras)[:-MAX_RESIDENT_LORAS]:
                del holds.loras[key]

    def free(self, names: Iterable[str]) -> None:
        """These workers can be given another job."""
        for name in names:
            if holds := self.holds.get(name):
                self.schedule.worker_free(name, holds.model, holds.loras, self._speed(name), holds.node)

    def _speed(self, name: str) -> float:
        """Of its kind of GPU beside others, in rough steps: what is nearly as fast counts as equal."""
        return 2.0 ** round(-math.log2(self.times.factor("scene", 1, self.holds[name].kind)))

    def kind_of(self, names: Sequence[str]) -> str:
        """What these workers compute on."""
        return "+".join(sorted({self.holds[name].kind for name in names})) if names else "host"

    # processes that died, or hang

    async def renew(self, names: Iterable[str], kill: bool = True) -> None:
        """Waits until Ray has brought these workers' processes back, having ended them whatever they hang in. One that
        does not come back leaves the pool."""
        names = list(names)
        for name in names if kill else ():
            ray.kill(self.workers[name], no_restart=False)
        if kill:
            await asyncio.sleep(0.2)  # `where` must not be answered by the process that is being ended
        for name, came in zip(
            names, await asyncio.gather(*map(self.await_worker, names), return_exceptions=True), strict=True
        ):
            if isinstance(came, Holds):
                self.holds[name] = came
            else:
                logger.warning("%s does not come back: %r", name, came)
                self.end_worker(name)

    # planner and index

    def host(self, kind: str) -> Any:
        """The planner or the index, made when there is none."""
        if kind not in self.hosts:
            actor = {"planner": Planner, "index": Index}[kind]
            options: dict[str, Any] = {"name": f"{kind}-{uuid.uuid4().hex[:8]}"}
            if kind == "planner" and self.device == "cuda":
                options["num_gpus"] = 1
            self.hosts[kind] = actor.options(**options).remote()  # type: ignore[attr-defined]
        return self.hosts[kind]

    async def end(self, kind: str) -> None:
        """Ends the planner or the index, if it is there."""
        actor = self.hosts.pop(kind, None)
        if actor is None:
            return
        if kind == "planner":  # the language model's own processes end first
            with contextlib.suppress(TimeoutError, ray.exceptions.RayError):
                await asyncio.wait_for(actor.close.remote(), 10)
        ray.kill(actor)
