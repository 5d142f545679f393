"""`dreamrunner status`: films, jobs and workers of a storage, read from its journal; Ray is not needed."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from cluster.films import Job, settled_film
from cluster.journal import Asked, Journal, Span
from cluster.store import Store

EVERY_S = 2.0


@dataclass(frozen=True)
class FilmState:
    """An open film. `jobs`: state -> how many, of those that are known; `running`: attempts under way."""

    key: str
    title: str
    priority: int
    workers: int
    asked: float
    paused: bool
    planned: bool
    jobs: dict[str, int]
    running: tuple[Span, ...]


def film_states(store: Store, journal: Journal) -> list[FilmState]:
    """The films that are neither whole nor given up, oldest first."""
    return [_state(store, journal, asked) for asked in journal.open_films()]


def _state(store: Store, journal: Journal, asked: Asked) -> FilmState:
    request = asked.request
    plan = request.stored_plan(store)
    jobs: tuple[Job, ...] = (request.plan_job,) if request.plan_job else ()
    if plan:
        jobs += settled_film(request.film(plan), store).jobs
    done = [job for job in jobs if store.record(*job.result) is not None]
    left = [job for job in jobs if job not in done]
    running = [span for span in journal.spans(job.result for job in left) if span.end is None]
    latest = {span.key: span for span in running}  # a studio that died left its attempts open: the last one holds
    counts = {"done": len(done), "running": len(latest), "waiting": len(left) - len(latest)}
    title = (plan.title if plan else "") or (request.story.title if request.story else "") or request.key
    return FilmState(
        request.key,
        title,
        asked.priority,
        asked.workers,
        asked.time,
        asked.paused,
        plan is not None,
        counts,
        tuple(latest.values()),
    )


def show_status(store: Store, console: Console, watch: bool, as_json: bool) -> None:
    """Prints the state once, or again and again until it is interrupted."""
    journal = Journal(store)
    if as_json:
        states = [asdict(state) for state in film_states(store, journal)]
        print(json.dumps({"storage": store.url, "films": states}, default=_plain))
        return
    if not watch:
        console.print(_page(store, journal))
        return
    with Live(_page(store, journal), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(EVERY_S)
            live.update(_page(store, journal), refresh=True)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json")


def _page(store: Store, journal: Journal) -> Group:
    states, now = film_states(store, journal), time.time()
    films = Table(
        "film", "key", "priority", "done", "running", "waiting", "since", title=f"Films under way in {store.url}"
    )
    work = Table("worker", "job", "", "film", "for", title="Workers")
    for state in states:
        jobs = state.jobs
        waiting = str(jobs["waiting"]) if state.planned else "not planned yet"
        title = f"{state.title} (paused)" if state.paused else state.title
        films.add_row(
            title, state.key[:12], str(state.priority), str(jobs["done"]), str(jobs["running"]), waiting,
            _ago(now - state.asked),
        )  # fmt: skip
        for span in state.running:
            for worker in span.worker or ("",):
                work.add_row(worker, span.kind, span.label, state.title, _ago(now - span.start))
    return Group(films if states else f"No film is under way in {store.url}.", *([work] if work.row_count else []))


def _ago(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
