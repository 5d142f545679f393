"""The studio's desk without Ray: its store, board and journal are real, its pool only notes what it is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from cluster.board import Board
from cluster.desk import Desk
from cluster.journal import Journal
from cluster.lease import Lease
from cluster.store import Store
from tests.conftest import small_request


class SlowPlaces:
    """Placement groups that take a while to be removed, as they do."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    def clear(self) -> None:
        time.sleep(0.2)
        self.seen.append("cleared")


class NotedPool:
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.places, self.workers = SlowPlaces(self.seen), dict[str, object]()
        self.hosts: dict[str, object] = {}

    async def grow(self, workers: int, together: int = 1) -> None:
        if workers > len(self.workers):
            self.seen.append("placed")
            self.workers |= {f"w{n}": None for n in range(workers)}


class QuietDesk(Desk):
    def __init__(self, storage: str) -> None:
        self.store = Store(storage)
        self.lease, self.journal = Lease(self.store, "me"), Journal(self.store)
        self.board, self.pool = Board(self.store, self.journal), NotedPool()
        self.awake, self.opening, self.loop = asyncio.Event(), asyncio.Lock(), None

    async def _run(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture
async def desk(tmp_path) -> AsyncIterator[QuietDesk]:
    desk = QuietDesk(str(tmp_path))
    yield desk
    await desk.close()


async def test_old_places_are_cleared_before_any_is_given_whoever_calls_first(desk) -> None:
    """Ray sends a submit again to a studio that it has just started again, while another call opens it."""
    request = small_request(scenes=1)
    await asyncio.gather(desk.open(), desk.submit(request, 2), desk.submit(request, 2), desk.films())
    assert desk.pool.seen == ["cleared", "placed"]
    assert await desk.films() == [request.key]


async def test_films_of_the_process_before_are_given_workers(desk, tmp_path) -> None:
    await desk.submit(small_request(scenes=2), 2)
    again = QuietDesk(str(tmp_path))  # the same owner: it was killed, and Ray has started it again
    await asyncio.gather(again.films(), again.open())
    assert again.pool.seen == ["cleared", "placed"]
    assert await again.films() == [small_request(scenes=2).key]
    again.loop.cancel()
