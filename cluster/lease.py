"""One studio per storage: the lease says who it is, and refuses another while that one lives.

lease/<epoch>.json: the holder of an epoch renews its own object; who takes over creates the next one, and of several
who try one wins (a conditional write). The newest is never removed, so an epoch is never given twice. Clocks of
different machines may be `MARGIN_S` apart.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.store import Store
from engine.errors import InputError

FOLDER = "lease"
EXPIRES_S = 60.0  # a lease that was not renewed for so long is nobody's
RENEW_S = 15.0
MARGIN_S = 15.0


class LeaseLost(Exception):
    """Another studio has the storage now; this one must stop at once."""


class Lease:
    """Held by `owner`, which stays the same over restarts of the same studio. `clock` gives seconds since the epoch."""

    def __init__(self, store: Store, owner: str, clock: Callable[[], float] = time.time) -> None:
        self.store, self.owner, self.clock = store, owner, clock
        self.epoch, self.renewed = -1, 0.0

    def acquire(self) -> None:
        """Takes the lease, or raises InputError that names who has it."""
        while True:
            epoch, text = newest(self.store)
            held = _parse(text)
            if held.get("owner") == self.owner and not held.get("released"):
                self.epoch = epoch
                self.renew()
                return
            if not self._is_free(held):
                raise InputError(
                    f"--storage {self.store.url} is in use by another studio (process {held.get('pid')} on "
                    f"{held.get('host')}, seen {self.clock() - held['renewed']:.0f} s ago); join it with --address, "
                    "wait, or use another storage"
                )
            self.epoch, self.renewed = epoch + 1, self.clock()
            if not self.store.write_new(_name(self.epoch), self._text()):
                continue
            # Its holder may have come back, or a later one come and gone, while we looked.
            if newest(self.store)[0] != self.epoch or (epoch >= 0 and self.store.read(_name(epoch)) != text):
                self.store.delete(_name(self.epoch))
                continue
            for name in self.store.list(FOLDER):
                if name < f"{self.epoch:010d}":
                    self.store.delete(f"{FOLDER}/{name}")
            return

    def hold(self) -> None:
        """Renews when it is time to: before anything that only the holder may do. Raises LeaseLost."""
        if self.clock() - self.renewed > RENEW_S:
            self.renew()

    def renew(self) -> None:
        """Raises LeaseLost when another has it."""
        self._check()
        now = self.clock()
        self.store.write(_name(self.epoch), self._text(renewed=now))
        self._check()  # who took over before this write is seen now; who comes after it sees the write
        self.renewed = now

    def release(self) -> None:
        """Gives it back; no effect when it is not ours any more."""
        if newest(self.store)[0] == self.epoch:
            self.store.write(_name(self.epoch), self._text(released=True))

    def _check(self) -> None:
        epoch, text = newest(self.store)
        if epoch != self.epoch:
            held = _parse(text)
            raise LeaseLost(
                f"{self.store.url} was taken over by process {held.get('pid')} on {held.get('host')}, since this one "
                f"had not renewed its lease for {self.clock() - self.renewed:.0f} s"
            )

    def _is_free(self, held: dict[str, Any]) -> bool:
        gone = held.get("host") == socket.gethostname() and not _alive(held.get("pid"), held.get("started"))
        return bool(
            not held or held.get("released") or gone or self.clock() - held.get("renewed", 0) > EXPIRES_S + MARGIN_S
        )

    def _text(self, **more: Any) -> bytes:
        me = {"owner": self.owner, "host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        return json.dumps({"version": 1, **me, "renewed": self.clock(), **more}).encode()


def newest(store: Store) -> tuple[int, bytes | None]:
    """The last epoch and its object's bytes; -1 when the storage never had a holder."""
    names = store.list(FOLDER)
    return (int(names[-1].removesuffix(".json")), store.read(f"{FOLDER}/{names[-1]}")) if names else (-1, None)


def holder(store: Store) -> dict[str, Any] | None:
    """Who has the storage: owner, host, pid, renewed; None when nobody does."""
    held = _parse(newest(store)[1])
    return None if not held or held.get("released") else held


def _name(epoch: int) -> str:
    return f"{FOLDER}/{epoch:010d}.json"


def _parse(text: bytes | None) -> dict[str, Any]:
    try:
        return json.loads(text or b"{}")
    except ValueError:
        return {}


def _started(pid: int) -> str:
    """When the process began, in the kernel's ticks: tells a reused pid from the process that held it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


def _alive(pid: int | None, started: str | None) -> bool:
    return pid is not None and _started(pid) not in ("",) and _started(pid) == (started or "")
