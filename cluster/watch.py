"""Notices processes that hang instead of dying: no step for many times the usual. Pure, with a clock of its own.

A job has three parts: until its first step (loading, the first compilation), from step to step, and from the last step
to its result (decoding, storing). What is usual is known for each part, by kind of job, model and number of workers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.films import Job
from cluster.patience import PATIENCE_S

TIMES = 20.0  # the usual
LEAST_S = PATIENCE_S + 60  # a job that waits for a storage that is away does not hang
UNKNOWN_S = 1800.0  # as long as nothing is known, e.g. while a large model is loaded for the first time
KEEP = 0.7  # of the old average, at each new value

Part = tuple[str, str, int, str]


@dataclass
class _Seen:
    job: Job
    at: float
    step: int = 0
    total: int = 0

    @property
    def part(self) -> Part:
        name = "first step" if not self.step else "result" if self.step >= self.total else "step"
        return self.job.kind, self.job.fingerprint, self.job.workers, name


class Watch:
    """`least` seconds are given to every part; DREAMRUNNER_HANG_S sets them."""

    def __init__(self, least: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.least = float(os.environ.get("DREAMRUNNER_HANG_S", LEAST_S)) if least is None else least
        self.clock = clock
        self.usual: dict[Part, float] = {}
        self.seen: dict[str, _Seen] = {}

    def started(self, job: Job) -> None:
        self.seen[job.key] = _Seen(job, self.clock())

    def progress(self, key: str, step: int, total: int) -> None:
        """A step was reported; the same step again is none."""
        seen = self.seen.get(key)
        if seen is None or (step, total) == (seen.step, seen.total):
            return
        if step > seen.step:  # else it began anew
            self._learn(seen, (self.clock() - seen.at) / (step - seen.step if seen.step else 1))
        seen.step, seen.total, seen.at = step, total, self.clock()

    def ended(self, job: Job, well: bool) -> None:
        seen = self.seen.pop(job.key, None)
        if seen and well:
            self._learn(seen, self.clock() - seen.at)

    def limit(self, key: str) -> float:
        """Seconds that the job may be silent now."""
        usual = self.usual.get(self.seen[key].part)
        return max(self.least, UNKNOWN_S if usual is None else TIMES * usual)

    def hung(self) -> dict[str, str]:
        """Keys of the jobs that have been silent for too long -> what to say."""
        silent = {key: self.clock() - seen.at for key, seen in self.seen.items()}
        return {
            key: f"hung: no progress for {seconds:.0f} s at step {self.seen[key].step} of {self.seen[key].total}"
            for key, seconds in silent.items() if seconds > self.limit(key)
        }  # fmt: skip

    def _learn(self, seen: _Seen, seconds: float) -> None:
        old = self.usual.get(seen.part, seconds)
        self.usual[seen.part] = KEEP * old + (1 - KEEP) * seconds
