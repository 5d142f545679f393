"""Which job goes to which worker: pure functions of what waits and who is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """A job that could start now. `film` is the film's place in the order of arrival."""

    key: str
    film: int
    model: str


def assign(
    waiting: Sequence[Waiting], idle: Mapping[str, str | None], running: Mapping[int, int]
) -> list[tuple[str, str]]:
    """(job key, worker) pairs to start now.

    `idle`: free workers and the model each has resident (None: none yet). `running`: film -> its jobs under way. The
    film with the fewest jobs under way comes first, then the older one; a worker that already holds the job's model is
    preferred, then one that holds none. A job's key starts once, however many films wait for it.
    """
    free, busy, out = dict(idle), dict(running), []
    left = list({job.key: job for job in reversed(waiting)}.values())[::-1]
    while left and free:
        job = min(left, key=lambda j: (busy.get(j.film, 0), j.film))  # min is stable: a film's jobs keep their order
        worker = min(free, key=lambda w: (free[w] != job.model, free[w] is not None, w))
        out.append((job.key, worker))
        left.remove(job)
        del free[worker]
        busy[job.film] = busy.get(job.film, 0) + 1
    return out
