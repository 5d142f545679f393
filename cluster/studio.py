"""The studio: stories in, films out. One detached actor per storage, which any client may make or join.

It holds nothing that matters: what was asked for lies in the journal, what is finished in the store. When its process
dies Ray starts it again and it goes on from both. What clients may ask is in desk.py, what is known of films in
board.py, which job goes where is decided in schedule.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Coroutine

import ray

from cluster.attempt import end_processes, perform, recover
from cluster.board import UnderWay
from cluster.delivery import Delivery
from cluster.desk import Desk
from cluster.lease import RENEW_S, LeaseLost
from cluster.patience import StorageAway

logger = logging.getLogger(__name__)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Studio(Desk):
    """Wakes when a job ended or somebody asked for something, and decides what comes next."""

    async def _run(self) -> None:
        tasks: set[asyncio.Task[None]] = set()

        def begin(what: Coroutine[None, None, None]) -> None:
            tasks.add(task := asyncio.create_task(what))
            task.add_done_callback(tasks.discard)

        while True:
            try:
                self.lease.hold()
            except LeaseLost:  # two studios must not work on one storage
                os._exit(1)
            except StorageAway as away:  # films are as they were, and are looked at again
                logger.warning("%s", away)
            for key, why in self.watch.hung().items():
                self.ended[key], job = why, self.watch.seen.pop(key).job
                end_processes(self.pool, job, self.board.under_way[job.slot].workers)
            while self.board.to_look_at:
                begin(self._look(self.board.to_look_at.popitem()[0]))
            for key, workers in self.board.schedule.assign():
                if under_way := self.board.started(key, workers):
                    begin(self._attempt(under_way))
                else:
                    self.pool.free(workers)
                    self.awake.set()
            self.pool.fit(self.board, self.awake)
            if self.pool.why_not_more and not self.pool.workers:
                self.board.errors |= {asked.request.key: self.pool.why_not_more for asked in self.board.open()}
            if not self.board.planning():
                await self.pool.end("planner")  # it needs much memory, and planning is done
            self.telemetry.state(self.board, len(self.pool.workers))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.awake.wait(), min(RENEW_S, self.watch.least))
            self.awake.clear()

    async def _look(self, key: str) -> None:
        known = key in self.board.films
        try:
            await self.board.look(key)
            if not known and (film := self.board.films.get(key)):
                self.telemetry.planned(key, film, self.board.stored)
        except StorageAway as away:
            logger.warning("%s", away)
            self.board.to_look_at[key] = None
        except Exception as error:
            logger.exception("film %s", key)
            self.board.errors[key] = str(error) or repr(error)
        self.awake.set()

    async def _attempt(self, under_way: UnderWay) -> None:
        """One attempt at a job. A lost process costs an attempt; so does an error in the job."""
        slot, workers, attempt = under_way.job.slot, under_way.workers, None
        try:
            job = await self.board.settle(under_way)
            films = self.board.schedule.films_of(slot)
            attempt = self._began(job, films, workers)
            await perform(self.pool, job, workers, Delivery(self.store, self.me, job))
            self._over(attempt, under_way, films)
            self.board.finished(slot, self.pool.kind_of(workers))
            self._hand_back(under_way)
        except Exception as error:
            job = under_way.job
            why = await self.board.failed(slot, error, self.ended.pop(job.key, ""))
            if attempt:
                self._over(attempt, under_way, films, why)
            self.awake.set()
            await recover(self.pool, under_way, error)
            self.awake.set()
