"""Process groups that live as long as one job: made, used and dropped, any number of times in the same processes.

`deepspeed.comm` makes all of them, scenes' as well as priors', since its state outlives torch.distributed's.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch


class Ranks(NamedTuple):
    """Who works together: this process is `rank` of `world_size`; rank 0 listens at `address` (default: a free local
    port)."""

    rank: int = 0
    world_size: int = 1
    address: str = ""

    def share(self, batch: int) -> int:
        """This rank's part of a batch, at least one example."""
        return max(batch // self.world_size, 1)


ALONE = Ranks()
PORTS = range(20_000, 32_000)  # below those that connections are given, and above those of Ray's workers
TIMEOUT = timedelta(seconds=60)  # of any exchange; a member that is gone is noticed after so long


def free_address(host: str = "127.0.0.1") -> str:
    """host:port at which nobody listens just now. Raises OSError when there is none."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        return f"{host}:{port}"
    raise OSError(f"{host}: no free port was found in {PORTS.start}..{PORTS.stop - 1}")


@contextmanager
def process_group(
    rank: int, world_size: int, address: str, device: str = "cpu", timeout: timedelta = TIMEOUT
) -> Iterator[None]:
    """Within the block this process is `rank` of `world_size`; rank 0 listens at `address` ("host:port").

    gloo on CPUs, NCCL on GPUs. It can be entered again after it was left, with any number of members.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu" if device == "cpu" else "cuda")
    import deepspeed.comm as ds
    from deepspeed import ops
    from deepspeed.comm import comm

    # else it compiles an operator that nothing here calls, under a lock that outlives a killed process: every group
    # that is made on this machine afterwards would wait for it for ever
    ops.__compatible_ops__ = {}

    host, port = address.rsplit(":", 1)
    os.environ |= {
        "MASTER_ADDR": host, "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": "0",
    }  # fmt: skip
    try:
        ds.init_distributed(
            dist_backend="gloo" if device == "cpu" else "nccl", init_method=f"tcp://{address}", rank=rank,
            world_size=world_size, timeout=timeout, auto_mpi_discovery=False, verbose=False, dist_init_required=True,
        )  # fmt: skip
        yield
    finally:
        if torch.distributed.is_initialized():
            ds.destroy_process_group()
        comm.cdb = None  # else the next group would be taken for this one
        # torch names groups by counting them: who waited in vain for the others would be one ahead of them for ever
        torch.distributed.distributed_c10d._world.group_count = 0
