"""Worker processes for benchmarks that compare one worker with several, without Ray: each keeps its model."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from engine.groups import free_address


class Member(Protocol):
    """What a worker's process keeps from job to job."""

    def run(self, job: Any) -> Any: ...


def serve(connection: Any, make: Callable[[], Member]) -> None:
    """A worker's process, until it is sent None."""
    torch.set_num_threads(1)
    member = make()
    while job := connection.recv():
        connection.send(member.run(job))


def start(count: int, make: Callable[[], Member], gpus: bool = False) -> list[Any]:
    """Connections to worker processes, which end with this one; with `gpus` each sees one of its own."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context, connections = multiprocessing.get_context("spawn"), []
    for rank in range(count):
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = str(rank)
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, make), daemon=True).start()
        connections.append(ours)
    return connections


def together(connections: Sequence[Any], job: Any) -> list[Any]:
    """The job, which has `rank` and `address`, by all of these; what each gave."""
    address = free_address()
    for rank, connection in enumerate(connections):
        connection.send(job._replace(rank=rank, address=address))
    return [connection.recv() for connection in connections]


def end(connections: Sequence[Any]) -> None:
    for connection in connections:
        connection.send(None)
