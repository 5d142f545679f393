"""What a program does to have films made: ask the studio, wait, and fetch them from the store."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from actors.planner import Planner
from cluster.delivery import Delivery
from cluster.films import FilmRequest, PlanJob
from cluster.head import Head, HeadLost
from cluster.local import NAMESPACE, gpus, ray_cluster
from cluster.pool import WORKER
from cluster.store import Store
from cluster.studio import Studio
from engine.errors import InputError

POLL_S, POLL_MOST_S = 0.2, 1.0
POLL_REST = 10.0  # times as long as an answer took: it tells of every scene
UNFINISHED = ("running", "paused")
Watch = Callable[[list[dict[str, Any]]], None]


class FilmFailed(Exception):
    """A film could not be made; the message says which scene and why."""


def render_films(
    store: Store, requests: Sequence[FilmRequest], workers: int, address: str | None, watch: Watch, priority: int = 0
) -> None:
    """Has all films made and returns when they are in the store. `watch` gets their states a few times a second.

    Raises InputError for what cannot be started, FilmFailed when the others are done but some failed, and HeadLost.
    """
    device = requests[0].execution.device
    with ray_cluster(address, workers):
        if device == "cuda" and not gpus():
            raise InputError("the film was asked for on GPUs, but the cluster has none")
        studio = open_studio(store, device)
        try:
            make_films(studio, requests, workers, watch, priority, address)
        except HeadLost:
            raise
        except BaseException:
            _close_own(studio, address)
            raise
        _close_own(studio, address)


def _close_own(studio: Any, address: str | None) -> None:
    if address is None:  # our own Ray ends with us; its studio must not keep the storage
        close_studio(studio)


def make_films(
    studio: Any,
    requests: Sequence[FilmRequest],
    workers: int,
    watch: Watch,
    priority: int = 0,
    address: str | None = None,
) -> None:
    """The same by a studio that is there and stays. Raises HeadLost when the cluster at `address` is gone."""
    head = Head(address)
    keys = [head.get(studio.submit.remote(request, workers, priority)) for request in requests]
    while True:
        asked = time.monotonic()
        states = head.get(studio.status.remote(keys))
        watch(states)
        if all(state["state"] not in UNFINISHED for state in states):
            break
        time.sleep(min(max(POLL_S, POLL_REST * (time.monotonic() - asked)), POLL_MOST_S))
    failed = [state["error"] or "a film was cancelled" for state in states if state["state"] != "done"]
    if failed:
        raise FilmFailed("; ".join(failed))


def studio_name(store: Store) -> str:
    return "studio-" + hashlib.sha256(store.url.encode()).hexdigest()[:12]


def open_studio(store: Store, device: str, worker: str = WORKER) -> Any:
    """The storage's studio on the cluster that we are connected to, made when there is none. `worker` names the class
    of its workers, module:name.

    Raises InputError when a studio of another cluster has the storage.
    """
    options: dict[str, Any] = {"name": studio_name(store), "namespace": NAMESPACE, "get_if_exists": True}
    options["lifetime"] = "detached"
    studio = Studio.options(**options).remote(store.url, device, worker)  # type: ignore[attr-defined]
    try:
        ray.get(studio.open.remote())
    except ray.exceptions.RayTaskError as error:
        ray.kill(studio)
        raise (error.cause if isinstance(error.cause, InputError) else error) from None
    return studio


def ask_studio(store: Store, method: str, *arguments: Any) -> Any:
    """What a method of the storage's studio returns. Raises InputError when the cluster has none."""
    try:
        studio = ray.get_actor(studio_name(store), NAMESPACE)
    except ValueError:
        raise InputError(
            f"--storage {store.url} is in use, but not by a studio of this cluster; name its cluster with --address"
        ) from None
    return Head(None).get(getattr(studio, method).remote(*arguments))


def close_studio(studio: Any) -> None:
    """Ends a studio and all its actors; what is finished stays in the store."""
    ray.get(studio.close.remote())
    ray.kill(studio)


def plan_story(store: Store, job: PlanJob, address: str | None) -> None:
    """Has a story planned by a planner of our own, which ends with it. Raises InputError when it cannot be."""
    with ray_cluster(address, 1):
        planner = Planner.remote()  # type: ignore[attr-defined]
        try:
            Head(address).get(planner.plan.remote(job, Delivery(store, None, job)))
            ray.get(planner.close.remote())
        finally:
            ray.kill(planner)
