"""One studio per storage: the lease says who it is, and refuses another while that one lives."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from cluster.store import Store
from engine.errors import InputError

NAME = "lease.json"
EXPIRES_S = 60.0  # a lease that was not renewed for so long is nobody's
RENEW_S = 15.0


class Lease:
    """Held by `owner`, which stays the same over restarts of the same studio."""

    def __init__(self, store: Store, owner: str) -> None:
        self.store, self.owner = store, owner

    def acquire(self) -> None:
        """Takes the lease, or raises InputError that names who has it."""
        if self.store.write_new(NAME, self._text()):
            return
        held = json.loads(self.store.read(NAME) or b"{}")
        mine = held.get("owner") == self.owner
        age = time.time() - held.get("renewed", 0)
        gone = held.get("host") == socket.gethostname() and not _alive(held.get("pid"), held.get("started"))
        if not (mine or gone or age > EXPIRES_S):
            raise InputError(
                f"--storage {self.store.url} is in use by another studio (process {held.get('pid')} on "
                f"{held.get('host')}, seen {age:.0f} s ago); join it with --address, wait, or use another storage"
            )
        self.renew()

    def renew(self) -> None:
        self.store.write(NAME, self._text())

    def release(self) -> None:
        held = json.loads(self.store.read(NAME) or b"{}")
        if held.get("owner") == self.owner:
            self.store.delete(NAME)

    def _text(self) -> bytes:
        me = {"owner": self.owner, "host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        return json.dumps({**me, "renewed": time.time()}).encode()


def _started(pid: int) -> str:
    """When the process began, in the kernel's ticks: tells a reused pid from the process that held it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


def _alive(pid: int | None, started: str | None) -> bool:
    return pid is not None and _started(pid) not in ("",) and _started(pid) == (started or "")
