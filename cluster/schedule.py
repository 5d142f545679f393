"""Which job goes to which workers: pure functions of what waits and who is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """A job that could start now. `film` is the film's place in the order of arrival; `workers` it takes at once."""

    key: str
    film: int
    model: str
    workers: int = 1


def assign(
    waiting: Sequence[Waiting], idle: Mapping[str, str | None], running: Mapping[int, int]
) -> list[tuple[str, tuple[str, ...]]]:
    """(job key, its workers) to start now.

    `idle`: free workers and the model each has resident (None: none yet). `running`: film -> its jobs under way. The
    film with the fewest jobs under way comes first, then the older one; its jobs in the order given (priors stand
    before scenes). Workers that already hold the job's model are preferred, then those that hold none. A job's key
    starts once, however many films wait for it. A job of several workers whose turn it is keeps its turn until enough
    are free: jobs of one worker would otherwise pass it for ever.
    """
    free, busy = dict(idle), dict(running)
    out: list[tuple[str, tuple[str, ...]]] = []
    left = list({job.key: job for job in reversed(waiting)}.values())[::-1]
    while left and free:
        job = min(left, key=lambda j: (busy.get(j.film, 0), j.film))  # min is stable: a film's jobs keep their order
        if job.workers > len(free):
            break
        best = sorted(free, key=lambda w: (free[w] != job.model, free[w] is not None, w))
        out.append((job.key, tuple(best[: job.workers])))
        left.remove(job)
        for worker in best[: job.workers]:
            del free[worker]
        busy[job.film] = busy.get(job.film, 0) + 1
    return out
