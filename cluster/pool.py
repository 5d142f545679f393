"""The actors that the studio gives jobs to: a pool of GPU workers, and the planner and the index while needed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Iterable
from typing import Any

import ray

from actors.index import Index
from actors.planner import Planner
from actors.worker import Worker
from cluster.local import SLOT
from engine.errors import InputError

PLACEMENT_S = 60.0  # an actor that cannot be placed for so long is an error


class Pool:
    """Workers by name, with the model that each holds."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.workers: dict[str, Any] = {}
        self.resident: dict[str, str | None] = {}  # of workers that are ready
        self.hosts: dict[str, Any] = {}  # "planner", "index"

    async def grow(self, workers: int) -> None:
        """Until the pool has this many workers. Raises InputError when the cluster has no place for one."""
        await asyncio.gather(*(self._new_worker() for _ in range(len(self.workers), workers)))

    async def _new_worker(self) -> None:
        name, gpus = f"worker-{uuid.uuid4().hex[:8]}", 1 if self.device == "cuda" else 0
        options: dict[str, Any] = {"name": name, "resources": {SLOT: 1}, "num_gpus": gpus}
        self.workers[name] = Worker.options(**options).remote(self.device)  # type: ignore[attr-defined]
        try:
            await self.await_worker(name)
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

    async def await_worker(self, name: str) -> None:
        """Until the worker's process runs (again)."""
        deadline = time.monotonic() + PLACEMENT_S
        while time.monotonic() < deadline:
            try:
                await asyncio.wait_for(self.workers[name].ready.remote(), deadline - time.monotonic())
                return
            except ray.exceptions.RayActorError:
                await asyncio.sleep(0.2)
        raise TimeoutError(name)

    async def renew_lost(self, name: str) -> None:
        """Waits until Ray has brought back a worker whose process died."""
        self.resident[name] = None
        await self.await_worker(name)

    async def renew(self, names: Iterable[str]) -> None:
        """Ends these workers' processes, whatever they hang in, and waits until Ray has brought them back."""
        for name in names:
            self.resident[name] = None
            ray.kill(self.workers[name], no_restart=False)
        await asyncio.sleep(0.2)  # `ready` must not be answered by the process that is being ended
        await asyncio.gather(*(self.await_worker(name) for name in names))

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
