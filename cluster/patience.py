"""Storages are away for a while, or full: what is tried again, for how long, and what is said when it stays so."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

from engine.errors import InputError

PATIENCE_S = 180.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 10.0
T = TypeVar("T")

FULL = {errno.ENOSPC, errno.EDQUOT}
LASTING = {errno.EROFS, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.EXDEV, errno.EFBIG}
# The answer of a storage that is there, or a mistake of ours; all else that a remote storage raises is worth a retry.
ANSWERS = (
    FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError, ValueError, TypeError,
    LookupError, AttributeError, ImportError, NotImplementedError,
)  # fmt: skip


class StorageAway(Exception):
    """The storage has not answered for PATIENCE_S. Nothing is lost: the same command goes on once it is back."""


class StorageFull(InputError):
    """There is no room. Nothing half-written counts, and the same command goes on once there is room."""


def patiently(action: Callable[[], T], url: str, seconds: float) -> T:
    """What `action` returns, tried again for `seconds` while the storage is away, with growing pauses.

    `action` may be carried out twice. Raises StorageFull, StorageAway, and what is the storage's answer as it is.
    """
    deadline, wait = time.monotonic() + seconds, FIRST_WAIT_S
    while True:
        try:
            return action()
        except ANSWERS:
            raise
        except Exception as error:
            number = getattr(error, "errno", None)
            if number in FULL:
                raise StorageFull(f"--storage {url} is full; make room and run the same command: it goes on") from error
            if number in LASTING or seconds <= 0:
                raise
            if time.monotonic() + wait > deadline:
                why = (str(error).splitlines() or [type(error).__name__])[0]
                raise StorageAway(
                    f"--storage {url} has not answered for {seconds:.0f} s ({why}); when it does, run:"
                ) from error
        time.sleep(wait * random.uniform(0.5, 1))  # many workers must not all come back at once
        wait = min(2 * wait, LONGEST_WAIT_S)
