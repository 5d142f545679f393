"""What was asked for and what every job did: survives any death, on any file system, and no object is written twice.

journal/films/<request>-<event>.json    `Asked`: the last of a film's is what holds; all go when the film is whole
journal/jobs/<kind>-<key>/<event>.json  `JobEvent`: an attempt at a job started, finished or failed
journal/done/<request>.json             `DoneFilm`: a whole film's attempts in one object
An event's name begins with its time, so that a listing is in order: that is how the journal is replayed.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.films import FilmRequest, Job, Result
from cluster.store import NewerVersion, Store

FILMS, JOBS, DONE = "journal/films", "journal/jobs", "journal/done"
VERSION = 1
READERS = 8  # objects read at once in a replay: each costs a round trip on s3


class Entry(BaseModel):
    """One object of the journal. Fields that a later version adds have defaults, so that older ones stay readable."""

    model_config = ConfigDict(frozen=True)

    version: int = VERSION


class Asked(Entry):
    """A film that is to be made; its request holds the execution plan, so that every retry keeps it."""

    request: FilmRequest
    workers: int
    time: float
    priority: int = 0
    paused: bool = False


class JobEvent(Entry):
    """`attempt` is the same in an attempt's two events. Times are seconds since the epoch, `freed` that from which the
    workers could have another job; `worker` are names, member 0's first."""

    event: Literal["started", "finished", "failed"]
    attempt: str
    kind: str
    key: str
    label: str
    worker: tuple[str, ...] = ()
    start: float
    freed: float | None = None
    end: float | None = None
    error: str | None = None


class Span(BaseModel):
    """An attempt as a timeline shows it. `end` and `outcome` are None for one whose studio died before it ended."""

    model_config = ConfigDict(frozen=True)

    kind: str
    key: str
    label: str
    worker: tuple[str, ...]
    start: float
    end: float | None
    outcome: Literal["finished", "failed"] | None
    error: str | None
    freed: float | None = None


class DoneFilm(Entry):
    """What is kept of a whole film's events."""

    asked: float
    done: float
    workers: int
    priority: int
    film: str  # the film's key
    spans: tuple[Span, ...]


E = TypeVar("E", bound=Entry)


class Journal:
    """The journal of one storage. Its writer is the storage's studio; anybody may read.

    What jobs do is written behind the studio's back, in order: a death may cost the last events of a timeline, never a
    film.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._writer = ThreadPoolExecutor(1, "journal")
        self._last: Future[None] | None = None

    # films

    def ask(self, asked: Asked) -> None:
        """From now on the film is open; a second time changes its workers, priority and time."""
        self._add(f"{FILMS}/{asked.request.key}-", asked)

    def open_films(self) -> list[Asked]:
        """What was asked for and is neither whole nor forgotten, in the order in which it was first asked for."""
        by_film: dict[str, Asked] = {}
        for asked in self._read(self._of_films(), Asked):
            first = by_film.get(asked.request.key, asked)
            by_film[asked.request.key] = asked.model_copy(update={"time": first.time})
        return sorted(by_film.values(), key=lambda asked: asked.time)

    def forget(self, request: str) -> None:
        """The film is not open any more."""
        for name in self._of_films(request):
            self.store.delete(name)

    def finish(self, request: str, film: str, jobs: Iterable[Job]) -> None:
        """The film is whole: what its jobs did becomes one object, and it is not open any more."""
        asked = self._read(self._of_films(request), Asked)
        if asked:
            done = DoneFilm(
                asked=asked[0].time, done=time.time(), workers=asked[-1].workers, priority=asked[-1].priority,
                film=film, spans=tuple(self.spans(job.result for job in jobs)),
            )  # fmt: skip
            self.store.write(f"{DONE}/{request}.json", _seal(done))
        self.forget(request)

    def done_film(self, request: str) -> DoneFilm | None:
        """A whole film's attempts; None when the film is not whole, or was made before there was a journal."""
        return _unseal(self.store, f"{DONE}/{request}.json", DoneFilm)

    # jobs

    def started(self, job: Job, worker: Iterable[str] = ()) -> JobEvent:
        """An attempt begins."""
        event = JobEvent(
            event="started", attempt=uuid.uuid4().hex[:8], kind=job.kind, key=job.key, label=job.label,
            worker=tuple(worker), start=time.time(),
        )  # fmt: skip
        self._add_later(_folder(job.result), event)
        return event

    def ended(self, started: JobEvent, error: str | None = None, freed: float | None = None) -> None:
        """The attempt is over; `error` says why it failed, `freed` when its workers were handed back before its end."""
        update = {"event": "failed" if error else "finished", "end": time.time(), "error": error, "freed": freed}
        self._add_later(_folder((started.kind, started.key)), started.model_copy(update=update))

    def spans(self, results: Iterable[Result]) -> list[Span]:
        """All attempts at these jobs, in the order in which they began."""
        self.flush()
        spans = []
        for folder in map(_folder, results):
            events = self._read([f"{folder}{name}" for name in self.store.list(folder)], JobEvent)
            attempts = {event.attempt: event for event in events if event.event == "started"}
            attempts |= {event.attempt: event for event in events if event.event != "started"}
            spans += [_span(event) for event in attempts.values()]
        return sorted(spans, key=lambda span: span.start)

    def flush(self) -> None:
        """Returns when all that was said of jobs is written, or could not be."""
        if self._last:
            wait([self._last])

    # objects

    def _of_films(self, request: str = "") -> list[str]:
        """Names of what was asked for, of one film or of all."""
        return [f"{FILMS}/{name}" for name in self.store.list(FILMS) if name.startswith(request)]

    def _add_later(self, place: str, entry: Entry) -> None:
        self._last = self._writer.submit(self._add, place, entry, False)

    def _add(self, place: str, entry: Entry, synced: bool = True) -> None:
        self.store.write_new(f"{place}{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json", _seal(entry), synced)

    def _read(self, names: list[str], model: type[E]) -> list[E]:
        """These entries, in order. What is damaged counts as never written."""
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(lambda name: _unseal(self.store, name, model), names)
        return [entry for entry in found if entry is not None]


def _folder(result: Result) -> str:
    return f"{JOBS}/{result[0]}-{result[1]}/"


def _span(event: JobEvent) -> Span:
    about = event.model_dump(include={"kind", "key", "label", "worker", "start", "freed", "end", "error"})
    return Span(**about, outcome=None if event.event == "started" else event.event)


def _seal(entry: Entry) -> bytes:
    """As JSON, behind its own checksum."""
    text = entry.model_dump_json().encode()
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def _unseal(store: Store, name: str, model: type[E]) -> E | None:
    """None for what is gone or damaged. Raises InputError for an entry of a newer version."""
    digest, _, text = (store.read(name) or b"").partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        return None
    values: dict[str, Any] = json.loads(text)
    if values.get("version", 0) > VERSION:
        raise NewerVersion(store.url, name, values["version"], VERSION)
    try:
        return model.model_validate(values)
    except ValidationError:  # its inputs are of another shape now: it could not be made as it was asked for
        return None
