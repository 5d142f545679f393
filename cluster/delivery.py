"""Given to an actor with a job: its inputs come from it, progress and the result go to it. So actors know no store."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

from cluster.films import Job, Result, input_name
from cluster.store import Store
from engine.errors import InputError

if TYPE_CHECKING:  # the studio needs no torch
    from engine.encodings import Shelf
    from engine.unfinished import Saves

REPORT_S = 1.0  # steps that follow sooner are not told: a studio of many workers would do little else


class Delivery:
    """`report(done, total)` is shown live, if there is a studio; `put` keeps the result whole or not at all."""

    def __init__(self, store: Store, studio: Any, job: Job) -> None:
        self.store, self.studio, self.job = store, studio, job
        self.reported = 0.0

    def report(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.studio is not None and (done == total or now - self.reported >= REPORT_S):
            self.reported = now
            self.studio.progress.remote(self.job.key, done, total)

    def hand_back(self) -> None:
        """The job's workers can be given another while this one is decoded and encoded."""
        if self.studio is not None:
            self.studio.hand_back.remote(self.job.key)

    def fetch(self, result: Result) -> dict[str, bytes]:
        """All files of an upstream result. Raises DamagedResult when one is not what was stored."""
        record = self.store.record(*result)
        if record is None:
            raise KeyError(f"{result[0]}/{result[1]} is not in the store")
        return {name: self.store.get(*result, name) for name in record["files"]}

    def image(self, sha256: str) -> bytes:
        """A reference image. Raises InputError when the storage has none of that name."""
        data = self.store.read(input_name(sha256))
        if data is None:
            raise InputError(
                f"the reference image {sha256[:12]}... is not in the storage; ask for the film again with it"
            )
        return data

    def saves(self, rank: int = 0) -> Saves:
        """Where a member's unfinished work is kept, until the job's result is there. What is damaged counts as
        nothing."""
        from engine.unfinished import Saves

        name = self._unfinished(rank)
        return Saves(lambda: self._checked(name), lambda data: self._keep(name, data))

    def shelf(self) -> Shelf:
        """Where what workers encode outlives them, for all of them; what is damaged counts as nothing."""
        from engine.encodings import Shelf

        return Shelf(lambda key: self._checked(f"encoded/{key}"), lambda key, data: self._keep(f"encoded/{key}", data))

    def _checked(self, name: str) -> bytes | None:
        data = self.store.read(name) or b""
        return data[32:] if hashlib.sha256(data[32:]).digest() == data[:32] else None

    def _keep(self, name: str, data: bytes) -> None:
        self.store.write(name, hashlib.sha256(data).digest() + data)

    def put(self, files: dict[str, bytes], notes: dict[str, Any]) -> None:
        self.store.put(self.job.kind, self.job.key, files, notes)
        for rank in range(max(self.job.workers, 1)):
            self.store.delete(self._unfinished(rank))

    def _unfinished(self, rank: int) -> str:
        return f"unfinished/{self.job.kind}/{self.job.key}" + (f"-{rank}" if rank else "")
