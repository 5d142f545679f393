"""One attempt at a job: by the planner, the index, or workers of the pool."""

from __future__ import annotations

import asyncio

import ray

from cluster.delivery import Delivery
from cluster.films import Job
from cluster.pool import Pool

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
    pool.used(workers, job)


async def recover(pool: Pool, job: Job, workers: tuple[str, ...], error: Exception) -> None:
    """After a failed attempt: returns when its processes can be given work again."""
    lost = isinstance(error, ray.exceptions.RayActorError)
    if lost and job.kind in HOSTS:
        pool.hosts.pop(HOSTS[job.kind], None)
    elif len(workers) > 1:  # the others of a lost worker's group may hang in an exchange
        await pool.renew(workers)
    elif lost:
        await pool.renew(workers, kill=False)


def end_processes(pool: Pool, job: Job, workers: tuple[str, ...]) -> None:
    """Ends those that work on a job; the attempt then fails like one whose process died, and they are brought back."""
    for actor in [pool.workers[name] for name in workers] or [pool.host(HOSTS[job.kind])]:
        ray.kill(actor, no_restart=False)
