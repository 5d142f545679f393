"""What no film needs is cleared from a storage, and nothing else.

Needed is, for every film that is finished, open, or was asked for over HTTP: its plan, clips, priors, scenes and
itself; for the unfinished of these also what is saved of jobs under way. Priors and the library stay unless asked,
since later films may use them. What lies in the folder and is not known here is never touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from cluster.films import Film, FilmRequest, Job, Result, execution_name, input_name, settled_film
from cluster.journal import DONE, FILMS, JOBS, Journal
from cluster.lease import FOLDER as LEASE
from cluster.lease import Lease, newest
from cluster.store import DamagedResult, Store
from engine.errors import InputError

KINDS = ("plan", "clips", "prior", "scene", "film")  # results that are known here
FOLDERS = ("results", "journal", "unfinished", "executions", "inputs", "encoded")
REQUESTS = "requests"  # what was asked for over HTTP: {"request": ...}
PARTIAL = re.compile(r"(^|/)\.[^/]+\.[0-9a-f]{32}$")  # a write that was killed
PROBE = re.compile(r"^probe-[0-9a-f]{32}$")


@dataclass(frozen=True)
class KnownFilm:
    """A film that a storage knows. It needs `results`, and `executions`: the plans that were chosen for its scenes.
    `object` is where it was asked for over HTTP."""

    request: FilmRequest
    state: str  # finished, open, or asked for
    results: frozenset[Result]
    executions: frozenset[str]
    object: str = ""

    @property
    def title(self) -> str:
        return (self.request.story or self.request.plan).title or "untitled"  # type: ignore[union-attr]


@dataclass
class Survey:
    """Everything in a storage. `unneeded`: object -> why; `bytes`: of every object."""

    bytes: dict[str, int]
    films: list[KnownFilm]
    unneeded: dict[str, str] = field(default_factory=dict)

    def table(self) -> list[tuple[str, int, int]]:
        """(what, objects, bytes) of what can be cleared."""
        counts, sizes = Counter(self.unneeded.values()), Counter[str]()
        for name, what in self.unneeded.items():
            sizes[what] += self.bytes[name]
        return [(what, counts[what], sizes[what]) for what in sorted(counts)]


def survey(store: Store, forget: Collection[str] = (), priors: bool = False, library: bool = False) -> Survey:
    """What a storage holds and what of it nobody needs.

    `forget`: beginnings of keys of films, which then need nothing any more. `priors`, `library`: these, too, when no
    film needs them. Raises InputError for a film that the storage does not know.
    """
    films = list(_films(store))
    for start in forget:
        if len(start) < 6 or not any(_named(film, start) for film in films):
            raise InputError(f"--forget {start}: no such film here; give at least 6 characters of a key from the list")
    kept = [film for film in films if not any(_named(film, start) for start in forget)]
    found = Survey(store.sizes(), kept)
    rules = _Rules(store, kept, {film.object for film in films} - {film.object for film in kept}, priors, library)
    for name in found.bytes:
        if why := rules.why_unneeded(name):
            found.unneeded[name] = why
    return found


def clear(
    store: Store,
    forget: Collection[str] = (),
    priors: bool = False,
    library: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Removes what `survey` finds; returns it. Raises InputError while a studio uses the storage."""
    lease = Lease(store, f"gc-{uuid.uuid4().hex}")
    lease.acquire()
    try:
        found = survey(store, forget, priors, library)
        # Records first: a result does not count any more before its files go.
        names = sorted(found.unneeded, key=lambda name: not name.endswith("/record.json"))
        for done, name in enumerate(names, 1):
            lease.hold()
            store.delete(name)
            report(done, len(names))
        if store.local:
            for folder in FOLDERS:
                _remove_empty(Path(store.root, folder))
    finally:
        lease.release()
    return found


class _Rules:
    """Which objects are needed by these films."""

    def __init__(self, store: Store, films: list[KnownFilm], forgotten: set[str], priors: bool, library: bool) -> None:
        self.store, self.forgotten, self.priors, self.library = store, forgotten, priors, library
        self.results = frozenset[Result]().union(*(film.results for film in films))
        self.unfinished = frozenset[Result]().union(*(film.results for film in films if film.state != "finished"))
        self.requests = {film.request.key for film in films}
        self.executions = frozenset[str]().union(*(film.executions for film in films))
        self.images = {input_name(image) for film in films for image in _images(film.request)}
        self.epoch = newest(store)[0]
        self.places: dict[Result, set[str]] = {}

    def why_unneeded(self, name: str) -> str | None:
        folder, *rest = name.split("/")
        if PARTIAL.search(name) and folder in (*FOLDERS, LEASE, REQUESTS):
            return "interrupted writes"
        if PROBE.match(name):
            return "interrupted writes"
        if folder == "results" and len(rest) == 3 and rest[0] in KINDS:
            return self._why_result((rest[0], rest[1]), name)
        if folder == "unfinished" and len(rest) == 2:
            key = rest[1].partition("-")[0]  # of several workers each has its own: KEY-1, KEY-2, ...
            return None if (rest[0], key) in self.unfinished else "unfinished work of no open film"
        if folder == "encoded":
            return None if self.unfinished else "encoded texts and clips"
        if folder == "executions":
            return None if name in self.executions else "execution plans of no film"
        if folder == "inputs":
            return None if name in self.images else "reference images of no film"
        if name.startswith(f"{JOBS}/"):
            kind, _, key = rest[1].partition("-")
            return None if (kind, key) in self.unfinished else "journal of finished jobs"
        if name.startswith((f"{DONE}/", f"{FILMS}/")):
            return None if rest[1].removesuffix(".json").partition("-")[0] in self.requests else "journal of no film"
        if folder == LEASE and len(rest) == 1 and rest[0].removesuffix(".json").isdigit():
            return None if int(rest[0].removesuffix(".json")) >= self.epoch else "old leases"
        if name in self.forgotten:
            return "forgotten requests"
        return "the library" if folder == "library" and self.library else None

    def _why_result(self, result: Result, name: str) -> str | None:
        if result not in self.places:
            self.places[result] = self.store.places(*result)
        whole = name in self.places[result]
        if whole and (result in self.results or (result[0] == "prior" and not self.priors)):
            return None
        return f"{result[0]} results of no film" if whole else "files of no result"


def _films(store: Store) -> Iterable[KnownFilm]:
    """Every film that the storage knows; a film may come twice, asked for in two ways."""
    for key in store.list("results/film"):
        try:
            request = FilmRequest.model_validate_json(store.get("film", key, "request.json"))
        except (KeyError, DamagedResult, ValidationError):
            continue
        notes = store.notes("film", key)
        kept = {("film", key), *(("scene", scene) for scene in notes["scenes"])}
        kept |= {(kind, need) for kind, need in notes.get("needs", ())}
        results, executions = _needs(store, request)
        yield KnownFilm(request, "finished", results | kept, executions)
    for asked in Journal(store).open_films():
        yield KnownFilm(asked.request, "open", *_needs(store, asked.request))
    for name in store.list(REQUESTS):
        try:
            request = FilmRequest.model_validate(json.loads(store.read(f"{REQUESTS}/{name}") or b"")["request"])
        except (ValueError, KeyError, TypeError):
            continue
        state = "finished" if request.finished(store) else "asked for"
        yield KnownFilm(request, state, *_needs(store, request), f"{REQUESTS}/{name}")


def _needs(store: Store, request: FilmRequest) -> tuple[frozenset[Result], frozenset[str]]:
    """A film's results and the execution plans of its scenes, as far as they are known before its plan is made."""
    jobs: list[Job] = [request.plan_job] if request.plan_job else []
    film = _film(store, request)
    if film is None:
        return frozenset(job.result for job in jobs), frozenset()
    settled = settled_film(film, store)
    results = {("film", settled.key), *(job.result for job in (*jobs, *settled.jobs))}
    return frozenset(results), frozenset(execution_name(job) for job in film.scenes if job.automatic)


def _film(store: Store, request: FilmRequest) -> Film | None:
    try:
        plan = request.stored_plan(store)
        return request.film(plan) if plan else None
    except (DamagedResult, InputError):
        return None


def _images(request: FilmRequest) -> set[str]:
    if request.story:
        return {image for images in request.story.characters.values() for image in images}
    assert request.plan
    return {image for character in request.plan.characters.values() for image in character.images}


def _named(film: KnownFilm, start: str) -> bool:
    return film.request.key.startswith(start) or any(
        kind == "film" and key.startswith(start) for kind, key in film.results
    )


def _remove_empty(folder: Path) -> None:
    """Folders in which nothing is left."""
    for place, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # there is something in it
            Path(place).rmdir()
