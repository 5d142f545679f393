"""What the studio tells the outside: metrics for Prometheus, by Ray's own export, and a log line for whatever happens.

Ray puts its prefix before the names (`ray_dreamrunner_jobs`) and serves them on every node's metrics port. Log lines
are JSON, in the studio's file of the session's log folder (`ray logs`); each names the job, its films and, for a scene,
the scene.
"""

from __future__ import annotations

import logging
import time
from collections import Counter as Counts
from collections.abc import Container, Sequence

from pythonjsonlogger.json import JsonFormatter
from ray.util.metrics import Counter, Gauge

from cluster.board import Board
from cluster.films import Film, Job, Result

EVERY_S = 1.0  # at most so often the state of things is counted anew
log = logging.getLogger("dreamrunner")


def log_as_json() -> None:
    """This process's log lines, to stderr, which Ray keeps in a file."""
    handler = logging.StreamHandler()
    names = {"levelname": "level", "message": "event"}
    handler.setFormatter(JsonFormatter("{levelname}{message}", style="{", timestamp=True, rename_fields=names))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


class Telemetry:
    """One per studio."""

    def __init__(self) -> None:
        log_as_json()
        self.films = Gauge("dreamrunner_films", "films that the studio heard of, by state", ("state",))
        self.jobs = Gauge("dreamrunner_jobs", "jobs of films under way, by kind and state", ("kind", "state"))
        self.workers = Gauge("dreamrunner_workers", "workers of the pool, by state", ("state",))
        self.worker_seconds = Counter("dreamrunner_worker_seconds", "seconds that workers worked", ("kind", "outcome"))
        self.steps = Counter("dreamrunner_steps", "denoising and learning steps done", ("kind",))
        self.prior_hits = Counter("dreamrunner_prior_hits", "priors that a film needed and the store had")
        self._at: dict[str, int] = {}  # job under way -> its last step
        self._told: set[tuple[str, str]] = set()  # (kind, state) that are not zero
        self._counted = 0.0

    def state(self, board: Board, workers: int) -> None:
        """Films and jobs by state, busy and idle workers."""
        if time.monotonic() - self._counted < EVERY_S:
            return
        self._counted = time.monotonic()
        jobs = Counts(
            (job.kind, "running" if slot in board.under_way else "waiting") for slot, job in board.jobs.items()
        )
        for kind, state in self._told | jobs.keys():
            self.jobs.set(jobs[kind, state], {"kind": kind, "state": state})
        self._told = set(jobs)
        busy = sum(len(under_way.workers) for under_way in board.under_way.values() if not under_way.freed)
        self.workers.set(busy, {"state": "busy"})
        self.workers.set(max(workers - busy, 0), {"state": "idle"})
        films = Counts(board.state(key) for key in board.asked)
        for state in ("running", "paused", "cancelled", "done", "failed"):
            self.films.set(films[state], {"state": state})

    def planned(self, key: str, film: Film, stored: Container[Result]) -> None:
        """A film became a graph of jobs."""
        known = sum(prior.result in stored for prior in film.priors)
        if known:
            self.prior_hits.inc(known)
        about = {"scenes": len(film.scenes), "priors": len(film.priors), "priors_known": known}
        log.info("planned", extra={"films": [key], **about})

    def step(self, job: Job, step: int) -> None:
        """A job reported its step; one that is taken again counts again."""
        new = step - self._at.get(job.key, 0)
        self._at[job.key] = step
        if new > 0:
            self.steps.inc(new, {"kind": job.kind})

    def started(self, job: Job, films: Sequence[str], workers: Sequence[str]) -> None:
        log.info("started", extra=_about(job, films, workers))

    def ended(
        self, job: Job, films: Sequence[str], workers: Sequence[str], seconds: float, why: str | None = None
    ) -> None:
        """`why` it failed; None: it did not."""
        self._at.pop(job.key, None)
        outcome = "finished" if why is None else "failed"
        if workers and seconds > 0:
            self.worker_seconds.inc(seconds * len(workers), {"kind": job.kind, "outcome": outcome})
        about = {**_about(job, films, workers), "seconds": round(seconds, 2)}
        if why is None:
            log.info(outcome, extra=about)
        else:
            log.warning(outcome, extra={**about, "error": why})


def _about(job: Job, films: Sequence[str], workers: Sequence[str]) -> dict[str, object]:
    """What each line says; no name of a LogRecord's own."""
    about: dict[str, object] = {"films": list(films), "job": job.key, "kind": job.kind, "label": job.label}
    return {**about, "workers": list(workers), **({"scene": job.label} if job.kind == "scene" else {})}
