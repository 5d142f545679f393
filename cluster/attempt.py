"""One attempt at a job: by the planner, the index, or workers of the pool."""

from __future__ import annotations

import asyncio

import ray

from cluster.board import UnderWay
from cluster.delivery import Delivery
from cluster.films import Job
from cluster.pool import Pool
from engine.errors import InputError

HOSTS = {"plan": "planner", "clips": "index"}  # kinds of job that go to a host of their own


async def perform(pool: Pool, job: Job, workers: tuple[str, ...], delivery: Delivery) -> None:
    """Returns when the result is in the store. Raises what the job raised, RayActorError for a process that died."""
    handles = [pool.workers[name] for name in workers]
    if job.kind == "plan":
        await pool.host("planner").plan.remote(job, delivery)
    elif job.kind == "clips":
        await pool.host("index").retrieve.remote(job, delivery)
    else:
        address = await handles[0].address.remote() if len(handles) > 1 else ""
        does = [handle.learn if job.kind == "prior" else handle.render for handle in handles]
        await asyncio.gather(*(do.remote(job, delivery, rank, address) for rank, do in enumerate(does)))


async def recover(pool: Pool, under_way: UnderWay, error: Exception) -> None:
    """After a failed attempt: brings its processes back, and they can be given work again.

    A process in which something failed is ended, too: it may have half an import or a spoiled CUDA context, and would
    fail for ever; but not for a mistake in what was asked for. Those that were handed back before have other jobs, or
    none; of these alone nobody else will notice that the process is gone."""
    job, workers = under_way.job, under_way.workers
    lost = isinstance(error, ray.exceptions.RayActorError)
    if isinstance(getattr(error, "cause", None) or error, InputError):
        workers = () if under_way.freed else workers
    elif under_way.freed:
        workers = tuple(name for name in workers if lost and name in pool.schedule.idle)
        for name in workers:
            pool.schedule.idle.remove(name)
        await pool.renew(workers, kill=False)
    elif job.kind in HOSTS:
        await pool.end(HOSTS[job.kind])
    else:  # the others of a lost worker's group may hang in an exchange
        await pool.renew(workers, kill=not lost or len(workers) > 1)
    pool.free(workers)


def end_processes(pool: Pool, job: Job, workers: tuple[str, ...]) -> None:
    """Ends those that work on a job; the attempt then fails like one whose process died, and they are brought back."""
    for actor in [pool.workers[name] for name in workers] or [pool.host(HOSTS[job.kind])]:
        ray.kill(actor, no_restart=False)
