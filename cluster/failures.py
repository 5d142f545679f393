"""What failed, and what follows: another attempt, a job given up alone, or a whole queue stopped. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence

from cluster.films import Job, Result
from engine.errors import InputError

ATTEMPTS = 3  # of one job, each lost with its worker or failed by itself
IN_A_ROW = 3  # jobs of one queue given up for the same reason, with none finished between: more would fail likewise

Queue = tuple[str, str]  # kind of job, fingerprint of its model


class Failures:
    """`given_up`: job key -> why. `stopped`: queue -> why; its jobs are not tried until somebody asks again."""

    def __init__(self) -> None:
        self.attempts: dict[str, int] = {}
        self.given_up: dict[str, str] = {}
        self.stopped: dict[Queue, str] = {}
        self._rows: dict[Queue, list[str]] = {}  # reasons of the last jobs given up

    def failed(self, job: Job, error: BaseException, why: str = "") -> str:
        """Counts a failed attempt; returns the reason. A mistake in what was asked for is not tried again."""
        cause = getattr(error, "cause", None) or error
        reason = why or (str(cause).strip().splitlines() or [type(cause).__name__])[-1]
        self.attempts[job.key] = self.attempts.get(job.key, 0) + 1
        wrong = isinstance(cause, InputError)
        if not wrong and self.attempts[job.key] < ATTEMPTS:
            return reason
        how = "" if wrong else f"failed {self.attempts[job.key]} times: "
        self.given_up[job.key] = f"{job.kind} {job.label}: {how}{reason}"
        row = [*self._rows.get(_queue(job), []), re.sub(r"[0-9a-f]{8,}|\d+", "#", reason)][-IN_A_ROW:]
        self._rows[_queue(job)] = row
        if len(row) == IN_A_ROW and len(set(row)) == 1 and not wrong:
            self.stopped[_queue(job)] = (
                f"{job.kind} {job.label}: not tried, since {IN_A_ROW} {job.kind} jobs in a row failed alike: {reason}"
            )
        return reason

    def finished(self, job: Job) -> None:
        """Its queue works."""
        self._rows.pop(_queue(job), None)

    def forget(self, jobs: Iterable[Job]) -> None:
        """Somebody asks, for these again perhaps: they get new attempts, and so does every queue."""
        self.stopped.clear()
        self._rows.clear()
        for job in jobs:
            self.attempts.pop(job.key, None)
            self.given_up.pop(job.key, None)

    def why_not(self, job: Job) -> str | None:
        """Why the job is not tried (any more); None when it may be."""
        return self.given_up.get(job.key) or self.stopped.get(_queue(job))

    def end_of(self, jobs: Sequence[Job], stored: Container[Result]) -> str | None:
        """Why a film of these jobs ends unfinished; None while some of them can still be done: one that is broken does
        not keep the others from being finished."""
        left = {job.result: job for job in jobs if job.result not in stored}
        reasons = [why for job in left.values() if (why := self.why_not(job))]
        if not reasons or any(self._has_hope(job, left) for job in left.values()):
            return None
        scenes = [job for job in jobs if job.kind == "scene"]
        made = sum(job.result in stored for job in scenes)
        return "; ".join(dict.fromkeys(reasons)) + (f" ({made} of {len(scenes)} scenes are finished)" if made else "")

    def _has_hope(self, job: Job, left: Mapping[Result, Job]) -> bool:
        return self.why_not(job) is None and all(self._has_hope(left[n], left) for n in job.needs if n in left)


def _queue(job: Job) -> Queue:
    return job.kind, job.fingerprint
