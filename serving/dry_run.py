"""`dreamrunner render --dry-run`: what would be done, what it should cost, and with which configuration."""

from __future__ import annotations

from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from cluster.estimates import hardware_of, job_cost
from cluster.films import FilmRequest, Job
from cluster.schedule import Task, longest_paths
from serving.render import Order

RESOLVED = "resolved.yaml"


def dry_run(order: Order, console: Console) -> list[Path]:
    """Prints each film's jobs with expected seconds and GB, and writes its configuration to the files returned."""
    files = []
    for film in order.films:
        file = film.folder / RESOLVED
        file.write_text(resolved(film.request), encoding="utf-8")
        files.append(file)
        console.print(_graph(film.request, order, film.folder.name))
        console.print(_sum(film.request, order), soft_wrap=True)
    return files


def resolved(request: FilmRequest) -> str:
    """All that decides the film beside its story or plan, defaults filled in, as YAML under the request's key."""
    asked = request.model_dump(mode="json", exclude={"story", "plan"})
    return yaml.safe_dump({"key": request.key, **asked}, sort_keys=False, allow_unicode=True, width=110)


def _jobs(request: FilmRequest, order: Order) -> tuple[Job, ...]:
    plan = request.stored_plan(order.store)
    mine: tuple[Job, ...] = (request.plan_job,) if request.plan_job else ()
    return (*mine, *request.film(plan).jobs) if plan else mine


def _graph(request: FilmRequest, order: Order, name: str) -> Table:
    table = Table("job", "", "after", "workers", "seconds", "GB each", "stored", title=f"{name}: what would be done")
    jobs = _jobs(request, order)
    names = {job.result: f"{job.kind} {job.label}" for job in jobs}
    for job in jobs:
        cost, stored = job_cost(job, order.bundle), order.store.record(*job.result) is not None
        table.add_row(
            job.kind, job.label, ", ".join(names[need] for need in job.needs), str(job.workers or ""),
            "" if stored or cost is None else f"{cost.seconds:.0f}", f"{cost.gigabytes:.1f}" if cost else "",
            "yes" if stored else "",
        )  # fmt: skip
    return table


def _sum(request: FilmRequest, order: Order) -> str:
    """The film's expected time on the order's workers, or why nobody can know it yet."""
    jobs = [job for job in _jobs(request, order) if order.store.record(*job.result) is None]
    if not jobs:
        return "All of it is in the store: nothing would be rendered."
    costs = {job.result: job_cost(job, order.bundle) for job in jobs}
    known = [job for job in jobs if costs[job.result] is not None]
    if request.plan_job and request.stored_plan(order.store) is None:
        return "The story is not planned yet: its priors and scenes are known as soon as it is (dreamrunner plan)."
    if not known:
        return f"{order.bundle.name} does not say its sizes (sizes_on_hub in bundle.yaml), so times are unknown."
    tasks, work = [], 0.0
    for job in known:
        cost = costs[job.result]
        assert cost
        work += cost.seconds * job.workers
        tasks.append(Task(str(job.result), ((job.workers, cost.seconds),), tuple(str(need) for need in job.needs)))
    longest = max(longest_paths(tasks).values())
    least = max(longest, work / order.workers)
    what = hardware_of(request.execution.device).name
    return (
        f"About {least:.0f} s on {order.workers} workers: {work:.0f} worker-seconds, of which {longest:.0f} s lie one "
        f"after another. By the cost model for one {what} a worker; loading models and planning not counted."
    )
