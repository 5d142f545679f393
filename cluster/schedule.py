"""Which job goes to which workers, and how many it gets. No Ray, store or clock: studio and simulator call the same.

The rules, in this order:
1. films of a higher priority; among equals the one with the fewest jobs under way, then the older (round-robin, and a
   worker tends to stay with a film, whose model it holds);
2. inside a film the job with the longest path: its own seconds and those of the longest chain that waits for it, so
   priors stand before scenes, and each prior before the shorter ones;
3. a job gets more than one worker only when idle workers outnumber waiting jobs, then as many as make it quickest;
4. a job goes to workers that hold its LoRAs, else its model, else none, the faster ones first; those of one job are
   taken from one node, where a node has enough;
5. a job of several workers whose turn it is keeps its turn until enough are free: others would pass it for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from cluster.idle import Idle

Split = tuple[int, float]  # workers of a job, and the seconds it is expected to take with them
WAITING, READY, RUNNING = "waiting", "ready", "running"


@dataclass(frozen=True, slots=True)
class Task:
    """What the schedule knows of a job. `splits`: what it may be given, the usual first; zero workers: it has a host of
    its own and starts as soon as it can. `needs`: keys of jobs before it; those that nobody added are done."""

    key: str
    splits: tuple[Split, ...] = ((1, 1.0),)
    needs: tuple[str, ...] = ()
    model: str = ""
    loras: tuple[str, ...] = ()


def longest_paths(tasks: Sequence[Task]) -> dict[str, float]:
    """Key -> seconds of the longest chain of jobs that begins with it. Each job stands after those that it needs."""
    behind: dict[str, float] = {}
    paths = {}
    for task in reversed(tasks):
        paths[task.key] = path = task.splits[0][1] + behind.get(task.key, 0.0)
        for need in task.needs:
            behind[need] = max(behind.get(need, 0.0), path)
    return paths


def film_rank(priority: int, under_way: int, number: int) -> tuple[int, int, int]:
    """The least comes first. `number` counts films in the order of arrival."""
    return -priority, under_way, number


def workers_of(splits: Sequence[Split], idle: int, waiting: int) -> int:
    """How many workers a job gets when `waiting` jobs, itself among them, could start on `idle` workers."""
    share = idle // max(waiting, 1)
    allowed = [split for split in splits if split[0] <= share]
    return min(allowed, key=lambda split: (split[1], split[0]))[0] if allowed else splits[0][0]


def pool_size(now: int, wanted: int, limit: int, kept: int, idle: int, idle_seconds: float, patience: float) -> int:
    """Workers that a pool of `now` should have: as many as jobs could use at once, `limit` at most; never fewer than
    `kept`, and its idle ones fewer only when nothing has waited for `patience` seconds."""
    grown = max(min(wanted, limit), kept)
    if grown >= now or idle_seconds < patience:
        return max(now, grown)
    return max(grown, now - idle)


@dataclass(slots=True)
class _Film:
    number: int
    priority: int
    under_way: int = 0
    paused: bool = False
    keys: dict[str, float] = field(default_factory=dict)  # job -> its path; only those that are not done
    ready: list[tuple[float, int, str]] = field(default_factory=list)  # heap, with jobs that were started meanwhile


class Schedule:
    """The rules over indices, so that a decision among many films, jobs and workers takes microseconds.

    A job may belong to several films (one prior serves all); it is under way for all of them, and starts once.
    """

    def __init__(self) -> None:
        self.idle = Idle()
        self.workers = 0  # all, busy ones too
        self.waiting = 0  # jobs for workers that could start, of films that are not paused
        self.tasks: dict[str, Task] = {}  # that are not done
        self.state: dict[str, str] = {}
        self.films: dict[str, _Film] = {}
        self._owners: dict[str, list[str]] = {}  # job -> its films
        self._missing: dict[str, int] = {}  # job -> how many that it needs are not done
        self._dependents: dict[str, list[str]] = {}
        self._order: list[tuple[tuple[int, int, int], str]] = []  # heap of films, with ranks that are no longer theirs
        self._hosted: dict[str, None] = {}  # ready jobs without workers
        self._too_big: dict[str, None] = {}  # ready jobs for more workers than there are
        self._count = 0

    # films

    def add(self, film: str, tasks: Iterable[Task], priority: int = 0) -> None:
        """Adds jobs that are not done to a film, which is new or known. Each stands after those that it needs."""
        if film not in self.films:
            self.films[film] = _Film(self._next(), priority)
        about, tasks = self.films[film], list(tasks)
        paths = longest_paths(tasks)
        for task in tasks:
            if task.key in about.keys:
                continue
            about.keys[task.key] = paths[task.key]
            owners = self._owners.setdefault(task.key, [])
            if owners:  # another film asked for it before
                self._join(task.key, film)
                continue
            owners.append(film)
            self.tasks[task.key] = task
            self._await_needs(task)

    def drop(self, film: str) -> list[str]:
        """Forgets a film; returns its jobs under way that no other film waits for."""
        about, lost = self.films.pop(film, None), []
        for key in about.keys if about else ():
            self._owners[key].remove(film)
            if not self._owners[key]:
                if self.state[key] == RUNNING:
                    lost.append(key)
                self._forget(key)
        if about and about.keys:
            self._recount()
        return lost

    def pause(self, film: str, paused: bool = True) -> None:
        """Starts no more of a film's jobs; what is under way goes on."""
        self.films[film].paused = paused
        self._recount()
        self._reorder(film)

    def set_priority(self, film: str, priority: int) -> None:
        self.films[film].priority = priority
        self._reorder(film)

    # jobs

    def done(self, key: str) -> None:
        """A job is done: those that waited for it alone can start. A job that nobody knows any more is no error."""
        if key not in self.tasks:
            return
        self._leave(key)
        for film in self._owners[key]:
            self.films[film].keys.pop(key, None)
        dependents = self._dependents.pop(key, ())
        self._forget(key)
        for other in dependents:
            if other in self._missing:
                self._missing[other] -= 1
                if self._missing[other] == 0:
                    self._ready(other)

    def retry(self, key: str, splits: tuple[Split, ...] | None = None) -> None:
        """A job under way did not succeed: it can start again, when what it needs is (still) done; `splits` says with
        how many workers."""
        if self.state.get(key) != RUNNING:
            return
        self._leave(key)
        task = self.tasks[key]
        if splits is not None:
            self.tasks[key] = task = Task(key, splits, task.needs, task.model, task.loras)
        self._await_needs(task)

    def is_under_way(self, key: str) -> None:
        """A job that was just added was started before, by workers that are not idle."""
        if self.state[key] != RUNNING:
            self._leave(key)
            self.state[key] = RUNNING
            if self.tasks[key].splits[0][0] > 0:
                self._count_under_way(key, 1)

    def give_up(self, key: str) -> list[str]:
        """Forgets a job and all that wait for it; returns the films that it was a job of."""
        if key not in self.tasks:
            return []
        self._leave(key)
        films, dependents = self._owners[key], self._dependents.get(key, [])
        for film in films:
            self.films[film].keys.pop(key, None)
        self._forget(key)
        for other in dependents:
            self.give_up(other)
        return films

    def films_of(self, key: str) -> list[str]:
        return list(self._owners.get(key, ()))

    def assign(self) -> list[tuple[str, tuple[str, ...]]]:
        """(job, its workers) to start now; they count as under way from here on."""
        started: list[tuple[str, tuple[str, ...]]] = []
        for key in [key for key in self._hosted if self._wanted(key)]:
            self._start(key, ())
            started.append((key, ()))
        while self.idle and (film := self._first()) is not None:
            key = self.films[film].ready[0][2]
            task = self.tasks[key]
            count = workers_of(task.splits, len(self.idle), self.waiting)
            if count > self.workers:
                self._too_big[key] = None
                self.waiting -= 1
                continue
            if count > len(self.idle):
                break
            names = self.idle.take(task.model, task.loras, count)
            self._start(key, names)
            started.append((key, names))
        return started

    # workers

    def worker_joins(self, name: str, model: str | None = None, speed: float = 1.0, node: str = "") -> None:
        """A new worker, idle. `speed`: how much faster than the others it is expected to be."""
        self.workers += 1
        self.idle.add(name, model, (), speed, node)
        for key in list(self._too_big):
            del self._too_big[key]
            self._ready(key)

    def worker_free(
        self, name: str, model: str | None, loras: Iterable[str] = (), speed: float = 1.0, node: str = ""
    ) -> None:
        """A worker that had a job is idle, and holds this model and these LoRAs."""
        self.idle.add(name, model, loras, speed, node)

    def worker_leaves(self, name: str) -> None:
        """An idle or busy worker is no more."""
        self.workers -= 1
        self.idle.remove(name)

    @property
    def wanted(self) -> int:
        """Workers that jobs under way and jobs that could start would use."""
        busy = self.workers - len(self.idle)
        return busy + self.waiting + sum(self.tasks[key].splits[0][0] for key in self._too_big)

    # inside

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _wanted(self, key: str) -> bool:
        return any(not self.films[film].paused for film in self._owners[key])

    def _await_needs(self, task: Task) -> None:
        needs = [need for need in task.needs if need in self.tasks]
        for need in needs:
            self._dependents.setdefault(need, []).append(task.key)
        self._missing[task.key] = len(needs)
        self.state[task.key] = WAITING
        if not needs:
            self._ready(task.key)

    def _ready(self, key: str) -> None:
        self.state[key] = READY
        if self.tasks[key].splits[0][0] == 0:
            self._hosted[key] = None
            return
        self.waiting += self._wanted(key)
        for film in self._owners[key]:
            self._push(key, film)

    def _join(self, key: str, film: str) -> None:
        """One more film for a job that is known."""
        about, wanted = self.films[film], self._wanted(key)
        self._owners[key].append(film)
        if self.state[key] == RUNNING:
            about.under_way += self.tasks[key].splits[0][0] > 0
        elif self.state[key] == READY and key not in self._hosted and key not in self._too_big:
            self.waiting += self._wanted(key) and not wanted
            self._push(key, film)

    def _push(self, key: str, film: str) -> None:
        about = self.films[film]
        heappush(about.ready, (-about.keys[key], self._next(), key))
        self._reorder(film)

    def _reorder(self, film: str) -> None:
        about = self.films[film]
        if about.ready and not about.paused:
            heappush(self._order, (film_rank(about.priority, about.under_way, about.number), film))

    def _first(self) -> str | None:
        """The film whose turn it is; its heap's first job can start."""
        while self._order:
            rank, film = self._order[0]
            about = self.films.get(film)
            if about is not None and not about.paused:
                while about.ready and self._stale(about.ready[0][2]):
                    heappop(about.ready)
                if about.ready and rank == film_rank(about.priority, about.under_way, about.number):
                    return film
            heappop(self._order)
        return None

    def _stale(self, key: str) -> bool:
        return self.state.get(key) != READY or key in self._too_big

    def _start(self, key: str, names: tuple[str, ...]) -> None:
        self._hosted.pop(key, None)
        self.state[key] = RUNNING
        if names:
            self.waiting -= 1
            self._count_under_way(key, 1)

    def _leave(self, key: str) -> None:
        """A job is no longer in the state it was in."""
        if self.state[key] == RUNNING and self.tasks[key].splits[0][0] > 0:
            self._count_under_way(key, -1)
        elif self.state[key] == READY:
            self._hosted.pop(key, None)
            self.waiting -= self.tasks[key].splits[0][0] > 0 and key not in self._too_big and self._wanted(key)
            self._too_big.pop(key, None)

    def _count_under_way(self, key: str, change: int) -> None:
        for film in self._owners[key]:
            self.films[film].under_way += change
            self._reorder(film)

    def _forget(self, key: str) -> None:
        for table in (self.tasks, self.state, self._owners, self._missing, self._dependents):
            table.pop(key, None)
        self._hosted.pop(key, None)
        self._too_big.pop(key, None)

    def _recount(self) -> None:
        self.waiting = sum(
            state == READY and key not in self._hosted and key not in self._too_big and self._wanted(key)
            for key, state in self.state.items()
        )
