"""Live progress of films on the terminal: a bar for each film, and one for each of its jobs under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

# kind of job -> what is said while it is under way, and what its steps are
WORDS = {
    "plan": ("planning the story", "scenes"),
    "clips": ("finding clips: {}", "clips"),
    "prior": ("learning: {}", "steps"),
    "scene": ("{}", "steps"),
}


class Progress:
    """A context; `update` takes the studio's states of the films of these names, in order."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
        )
        self.names = names
        self.bars = Bars(*columns, TimeElapsedColumn(), console=console)
        self.film_bars: list[TaskID] = []
        self.job_bars: dict[tuple[int, str, str], TaskID] = {}

    def __enter__(self) -> Progress:
        self.bars.start()
        for name in self.names:
            self.film_bars.append(self.bars.add_task(f"[bold]{name}", total=None, unit="jobs"))
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def update(self, states: Sequence[dict[str, Any]]) -> None:
        for number, state in enumerate(states):
            jobs = state["jobs"]
            done = sum(job["state"] == "done" for job in jobs)
            known = any(job["kind"] == "scene" for job in jobs)  # before the plan is there nobody knows how many
            self.bars.update(self.film_bars[number], completed=done, total=len(jobs) if known else None)
            for job in jobs:
                self._job(number, job)

    def _job(self, film: int, job: dict[str, Any]) -> None:
        key = film, job["kind"], job["id"]
        if job["state"] == "running":
            words, unit = WORDS[job["kind"]]
            if key not in self.job_bars:
                self.job_bars[key] = self.bars.add_task(f"  {words.format(job['id'])}", total=None, unit=unit)
            self.bars.update(self.job_bars[key], completed=job["step"], total=job["total"] or None)
        elif key in self.job_bars:
            self.bars.remove_task(self.job_bars.pop(key))
