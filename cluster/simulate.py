"""The schedule against thousands of simulated GPUs: events instead of hours, the studio's own rules.

What a job takes is known to the simulated workers alone; the schedule sees what the studio sees, estimates. A failed
attempt goes on from what its worker saved last, like in the engine.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cluster.schedule import Schedule, Split, Task, longest_paths
from cluster.times import Times

RESIDENT_LORAS = 16  # of a worker; the least recently used makes room
SAVED = {"scene": 0.1, "prior": 0.05}  # a worker saves its work each time this share of it is done
DEVICE = "simulated"


@dataclass(frozen=True, slots=True)
class SimJob:
    """`modelled`: workers -> seconds by the cost model, the usual first. `slower`: what it really takes over that."""

    key: str
    kind: str
    modelled: tuple[Split, ...]
    slower: float = 1.0
    needs: tuple[str, ...] = ()
    model: str = "2B"


@dataclass(frozen=True)
class SimFilm:
    """Jobs stand after those that they need. Films may have jobs in common."""

    name: str
    jobs: tuple[SimJob, ...]
    arrives: float = 0.0
    priority: int = 0


@dataclass(frozen=True)
class Machines:
    """The simulated cluster. `failures`: share of attempts that fail, at a random moment. Seconds: to load a model, to
    load a LoRA, and until a failed attempt's workers are back (without model)."""

    workers: int
    failures: float = 0.0
    load_model: float = 20.0
    load_lora: float = 0.3
    restart: float = 10.0


@dataclass(slots=True)
class Outcome:
    """Of one simulation, in simulated seconds; `deciding` in real ones. `spans`: (job, workers, start, end, well)."""

    makespan: float = 0.0
    latency: dict[str, float] = field(default_factory=dict)  # film -> from arrival to its last job
    busy: float = 0.0  # seconds of all workers together
    lost: float = 0.0  # of them, what failed attempts did and had not saved
    decisions: int = 0
    deciding: float = 0.0
    spans: list[tuple[str, tuple[str, ...], float, float, bool]] = field(default_factory=list)


class Queue(Protocol):
    """What the simulation asks of a schedule; see cluster/schedule.py."""

    def add(self, film: str, tasks: Iterable[Task], priority: int = 0) -> None: ...
    def done(self, key: str) -> None: ...
    def retry(self, key: str, splits: tuple[Split, ...] | None = None) -> None: ...
    def drop(self, film: str) -> list[str]: ...
    def assign(self) -> list[tuple[str, tuple[str, ...]]]: ...
    def worker_joins(self, name: str, model: str | None = None, speed: float = 1.0) -> None: ...
    def worker_free(self, name: str, model: str | None, loras: Iterable[str] = (), speed: float = 1.0) -> None: ...


class Fifo:
    """First in, first out, to compare with: a job joins the queue when all it needs is done, and the worker that has
    been idle longest gets it; films, models and times are not looked at."""

    def __init__(self) -> None:
        self.ready: deque[str] = deque()
        self.idle: deque[str] = deque()
        self.tasks: dict[str, Task] = {}
        self.missing: dict[str, int] = {}
        self.dependents: dict[str, list[str]] = {}

    def add(self, film: str, tasks: Iterable[Task], priority: int = 0) -> None:
        for task in tasks:
            if task.key in self.tasks:
                continue
            self.tasks[task.key] = task
            needs = [need for need in task.needs if need in self.tasks]
            self.missing[task.key] = len(needs)
            for need in needs:
                self.dependents.setdefault(need, []).append(task.key)
            if not needs:
                self.ready.append(task.key)

    def done(self, key: str) -> None:
        del self.tasks[key], self.missing[key]
        for other in self.dependents.pop(key, ()):
            self.missing[other] -= 1
            if self.missing[other] == 0:
                self.ready.append(other)

    def retry(self, key: str, splits: tuple[Split, ...] | None = None) -> None:
        self.ready.append(key)

    def drop(self, film: str) -> list[str]:
        return []

    def assign(self) -> list[tuple[str, tuple[str, ...]]]:
        started = []
        while self.ready and len(self.idle) >= (count := self.tasks[self.ready[0]].splits[0][0]):
            started.append((self.ready.popleft(), tuple(self.idle.popleft() for _ in range(count))))
        return started

    def worker_joins(self, name: str, model: str | None = None, speed: float = 1.0) -> None:
        self.idle.append(name)

    def worker_free(self, name: str, model: str | None, loras: Iterable[str] = (), speed: float = 1.0) -> None:
        self.idle.append(name)


class Simulation:
    """Films on machines, by a queue's decisions. The same arguments give the same outcome."""

    def __init__(
        self, films: Sequence[SimFilm], machines: Machines, queue: Queue, seed: int = 0, keep_spans: bool = False
    ) -> None:
        self.films = {film.name: film for film in films}
        self.machines, self.queue, self.keep_spans = machines, queue, keep_spans
        self.random = random.Random(seed)
        self.times = Times()
        self.out = Outcome()
        self.models: dict[str, str | None] = {f"w{n}": None for n in range(machines.workers)}
        self.loras: dict[str, OrderedDict[str, None]] = {}
        self.jobs: dict[str, SimJob] = {}  # that arrived and are not done
        self.left: dict[str, float] = {}  # share of a job that is still to do, after failures
        self.film_jobs: dict[str, int] = {}  # film -> jobs that are not done
        self.waiting_films: dict[str, list[str]] = {}  # job -> films
        self.finished: set[str] = set()
        self.events: list[tuple[float, int, tuple]] = []
        self.count = 0

    def run(self) -> Outcome:
        """Until all is done."""
        for name in self.models:
            self.queue.worker_joins(name)
        for film in self.films.values():
            self._at(film.arrives, ("film", film))
        while self.events:
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                _, _, event = heapq.heappop(self.events)
                if event[0] == "film":
                    self._arrives(event[1], now)
                elif event[0] == "back":
                    self._free(event[1])
                else:
                    self._ends(now, *event[1:])
            began = time.perf_counter()
            started = self.queue.assign()
            self.out.deciding += time.perf_counter() - began
            self.out.decisions += len(started)
            for key, names in started:
                self._starts(key, names, now)
        return self.out

    def _at(self, when: float, event: tuple) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, event))

    def _arrives(self, film: SimFilm, now: float) -> None:
        jobs = [job for job in film.jobs if job.key not in self.finished]
        self.film_jobs[film.name] = len(jobs)
        for job in jobs:
            self.jobs[job.key] = job
            self.waiting_films.setdefault(job.key, []).append(film.name)
        if not jobs:
            self.out.latency[film.name] = 0.0
        self.queue.add(film.name, [self._task(job) for job in jobs], film.priority)

    def _task(self, job: SimJob) -> Task:
        splits = tuple((n, self.times.seconds(job.kind, n, DEVICE, modelled)) for n, modelled in job.modelled)
        return Task(job.key, splits, job.needs, job.model, job.needs)

    def _starts(self, key: str, names: tuple[str, ...], now: float) -> None:
        job = self.jobs[key]
        loading = max(self._bring(name, job) for name in names)
        seconds = dict(job.modelled)[len(names)] * job.slower * self.left.get(key, 1.0)
        well = self.random.random() >= self.machines.failures
        working = seconds if well else seconds * self.random.random()
        self._at(now + loading + working, ("end", key, names, now, working / seconds if seconds else 1.0, well))

    def _bring(self, name: str, job: SimJob) -> float:
        """Seconds until the worker has the job's model and LoRAs."""
        seconds = 0.0
        if self.models[name] != job.model:
            self.models[name], self.loras[name] = job.model, OrderedDict()
            seconds += self.machines.load_model
        held = self.loras[name]
        for lora in job.needs:
            if lora not in held:
                seconds += self.machines.load_lora
                if len(held) == RESIDENT_LORAS:
                    held.popitem(last=False)
            held[lora] = None
            held.move_to_end(lora)
        return seconds

    def _ends(self, now: float, key: str, names: tuple[str, ...], start: float, share: float, well: bool) -> None:
        job = self.jobs[key]
        self.out.busy += (now - start) * len(names)
        if self.keep_spans:
            self.out.spans.append((key, names, start, now, well))
        if well:
            self.times.observe(job.kind, len(names), DEVICE, dict(job.modelled)[len(names)], now - start)
            self._done(job, now)
            for name in names:
                self._free(name)
            return
        left, step = self.left.get(key, 1.0), SAVED[job.kind]
        reached = 1.0 - left + share * left
        kept = max(step * int(reached / step + 1e-9), 1.0 - left)
        self.left[key] = 1.0 - kept
        self.out.lost += (reached - kept) * dict(job.modelled)[len(names)] * job.slower * len(names)
        for name in names:
            self.models[name] = None
            self._at(now + self.machines.restart, ("back", name))
        expected = self.times.seconds(job.kind, len(names), DEVICE, dict(job.modelled)[len(names)])
        self.queue.retry(key, ((len(names), expected),))  # the execution plan was chosen: a retry keeps it

    def _done(self, job: SimJob, now: float) -> None:
        self.out.makespan = now
        self.finished.add(job.key)
        del self.jobs[job.key]
        self.left.pop(job.key, None)
        began = time.perf_counter()
        self.queue.done(job.key)
        self.out.deciding += time.perf_counter() - began
        for film in self.waiting_films.pop(job.key):
            self.film_jobs[film] -= 1
            if self.film_jobs[film] == 0:
                self.out.latency[film] = now - self.films[film].arrives
                self.queue.drop(film)

    def _free(self, name: str) -> None:
        began = time.perf_counter()
        self.queue.worker_free(name, self.models[name], self.loras.get(name, ()))
        self.out.deciding += time.perf_counter() - began


def simulate(
    films: Sequence[SimFilm], machines: Machines, queue: Queue | None = None, seed: int = 0, keep_spans: bool = False
) -> Outcome:
    """Films on simulated machines; by the studio's schedule when no queue is given."""
    return Simulation(films, machines, queue or Schedule(), seed, keep_spans).run()


def bound(films: Sequence[SimFilm], workers: int, lost: float) -> float:
    """Seconds that no schedule beats for films that are all there at the start: the longest chain of jobs, each as
    quick as any split makes it, or all work and what failures lost, shared out evenly."""
    jobs = {job.key: job for film in films for job in film.jobs}
    work = sum(min(n * seconds for n, seconds in job.modelled) * job.slower for job in jobs.values())
    critical = 0.0
    for film in films:
        quickest = [Task(j.key, ((1, min(s for _, s in j.modelled) * j.slower),), j.needs) for j in film.jobs]
        critical = max(critical, *longest_paths(quickest).values(), 0.0)
    return max(critical, (work + lost) / workers)
