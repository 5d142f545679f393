"""Filling a library in one process: the clips that a bundle brings along, a few clips of one's own, other scorers.

Folders of footage go the way of cluster/ingest.py, which does the same to each clip on all cores of a cluster.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import length_hint
from typing import NamedTuple, TypeVar

import pyarrow as pa

from engine.cutting import Captioned, Cut, Cutter, scored_pixels
from engine.errors import InputError
from engine.library import Library
from engine.video import read_video

BATCH = 32  # segments embedded and written at once
T = TypeVar("T")

Report = Callable[[int, int], None]  # (done, total); total is 0 while nobody knows it


def no_report(done: int, total: int) -> None:
    """For those who do not want to know."""


class Skipped(NamedTuple):
    name: str
    why: str


class Added(NamedTuple):
    """What adding did: clips that are new, that were there before, and that could not be read."""

    added: int
    known: int
    skipped: tuple[Skipped, ...]


def prepare(library: Library, report: Report = no_report) -> None:
    """What must be done before the first search: fills a new library with the bundle's own first clips, and embeds all
    clips again when the scorers are not those that embedded them. Adding that was killed left no index: made here."""
    if library.embedded_by != library.scorers_name:
        library.replace(_embedded_again(library, report))
    source = library.bundle.library.clips
    if source and not len(library):
        module, function = source.split(":")
        # in one commit: a process killed meanwhile leaves none of them, and two that fill at once leave each clip once
        add_clips(library, getattr(importlib.import_module(module), function)(), report, at_once=True)
    elif len(library) and not library.indexed:
        library.index()


def add_clips(library: Library, clips: Iterable[Captioned], report: Report = no_report, at_once: bool = False) -> Added:
    """Adds clips that are not there yet, by the sha256 of their files, a batch at a time. What cannot be read is left
    out and named in the result."""
    cutter, skipped = Cutter(library.bundle), []
    seen: set[str] = set()
    total, done, added = length_hint(clips), 0, 0

    def cuts() -> Iterator[Cut]:
        nonlocal done, added
        for clip in clips:
            source = clip.source
            if source not in seen and not library.known([source]):
                try:
                    yield from cutter.cut(clip)
                    added += 1
                    seen.add(source)
                except InputError as error:
                    skipped.append(Skipped(clip.name or source[:12], str(error)))
            done += 1
            report(done, total)

    batches: Iterator[pa.Table] = (keep(library, batch) for batch in _batches(cuts()))
    if at_once:
        batches = iter([pa.concat_tables(list(batches))])
    for batch in batches:
        library.write(batch)
    if added:
        library.index()
    return Added(added, done - added - len(skipped), tuple(skipped))


def keep(library: Library, cuts: Sequence[Cut]) -> pa.Table:
    """Stores the segments' videos; their rows, embedded."""
    for cut in cuts:
        library.keep_video(cut.row["id"], cut.video)
    return library.embed([cut.row for cut in cuts], [cut.pixels for cut in cuts])


def _embedded_again(library: Library, report: Report) -> Iterator[pa.Table]:
    rows = library.rows()
    for n, batch in enumerate(_batches(rows)):
        yield library.embed(batch, [scored_pixels(read_video(library.clip(row["id"]))[0]) for row in batch])
        report(min(len(rows), (n + 1) * BATCH), len(rows))


def _batches(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
