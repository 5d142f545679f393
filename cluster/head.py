"""Whether the cluster's head still answers. Ray itself waits for minutes, and then ends the process that asks."""

from __future__ import annotations

import socket
import time
from typing import Any

import ray

from cluster.patience import StorageAway
from engine.errors import InputError

LOOK_S = 5.0
TRIES = 3
PATIENCE_S = 45.0  # a head under a durable GCS is back by then; Ray ends our process after 60 s without one


class HeadLost(Exception):
    """The cluster at --address does not answer. What is finished is in the storage; the command is to be run again."""


class Head:
    """The head of the cluster that we are connected to; `address` as it was given to Ray, if it was."""

    def __init__(self, address: str | None) -> None:
        named = address if address and address.startswith("ray://") else ray.get_runtime_context().gcs_address
        self.host, self.port = host_and_port(named)

    def get(self, reference: ray.ObjectRef) -> Any:
        """ray.get that gives an InputError back as itself. Raises HeadLost."""
        errors = 0
        while True:
            try:
                return ray.get(reference, timeout=LOOK_S)
            except ray.exceptions.GetTimeoutError:
                self.check()
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InputError | StorageAway):
                    raise error.cause from None
                raise
            except (ray.exceptions.RayError, ConnectionError, RuntimeError):
                self.check()
                errors += 1
                if errors == TRIES:  # the head is there: it is the answer
                    raise
                time.sleep(1)

    def check(self) -> None:
        """Raises HeadLost when it is gone for good; while it is starting again this waits."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                reach(self.host, self.port)
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise HeadLost(
                        f"the cluster's head at {self.host}:{self.port} is gone ({error}); what is finished is kept"
                    ) from None
            time.sleep(1)


def host_and_port(address: str) -> tuple[str, int]:
    """Of host:port or ray://host:port; an empty host for `auto` and the like."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return (host, int(port)) if host and port.isdigit() else ("", 0)


def reach(host: str, port: int) -> None:
    """Raises OSError when nobody listens there."""
    socket.create_connection((host, port), timeout=10).close()
