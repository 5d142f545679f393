"""Footage into the library by Ray Data: clips are read and cut on all cores, embedded on GPUs where there are any, and
written by the one who asked, a few hundred segments at a commit.

What is done to a clip is engine/cutting.py's. A run that is ended goes on where it was: what was written stays, and a
file whose segments are all there is not cut again. A file that cannot be read becomes a line of the report.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import ActorPoolStrategy

from cluster.local import gpus
from engine.cutting import Captioned, Cutter
from engine.errors import InputError
from engine.filling import BATCH, Added, Report, Skipped, no_report
from engine.library import SCHEMA, Library
from engine.models import load_bundle
from engine.sources import Listing, ParquetVideos, Source, row_clip

COMMIT, COMMIT_S = 512, 30.0  # segments, or seconds, after which they are written: what a kill can lose
BLOCK_BYTES = 16 << 20  # of pixels handed on at once
MOST_BLOCKS = 4096
WORTH_A_CORE = 32  # clips: one process more takes seconds to start
NICENESS = 10  # like a CPU worker's: films go first
NEW, KNOWN, SKIPPED = "new", "known", "skipped"
COLUMNS = [name for name, _ in SCHEMA]


class CutClips:
    """One core's share: a source in, a row for each of its segments out, or one that says why there is none."""

    def __init__(self, model: str, url: str, device: str) -> None:
        import torch

        torch.set_num_threads(1)
        os.nice(NICENESS)
        bundle = load_bundle(model)
        self.cutter, self.library = Cutter(bundle, device), Library(url, bundle)

    def __call__(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        name = item.get("name") or ""
        try:
            clip = row_clip(item) if "video" in item else Source(**item).read()
            name = clip.name
            if self.library.known([clip.source]):
                return [_row(name, KNOWN)]
            return self._cut(clip)
        except InputError as error:
            return [_row(name, SKIPPED, str(error))]

    def _cut(self, clip: Captioned) -> list[dict[str, Any]]:
        rows = []
        for cut in self.cutter.cut(clip):
            self.library.keep_video(cut.row["id"], cut.video)
            shape = {"pixels": cut.pixels.tobytes(), "shape": list(cut.pixels.shape)}
            rows.append({**_row(clip.name, NEW), **cut.row, **shape})
        return rows


class EmbedClips:
    """The scorers, on a GPU or a core."""

    def __init__(self, model: str, url: str, device: str) -> None:
        os.nice(NICENESS)
        self.library = Library(url, load_bundle(model), device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        new = pc.equal(batch["state"], NEW)
        fresh, others = batch.filter(new), batch.filter(pc.invert(new)).select(["state", "why", *COLUMNS])
        pixels = [
            np.frombuffer(data, np.uint8).reshape(shape)
            for data, shape in zip(fresh["pixels"].to_pylist(), fresh["shape"].to_pylist(), strict=True)
        ]
        rows = (
            self.library.embed(fresh.select(COLUMNS).to_pylist(), pixels)
            if pixels
            else self.library.schema.empty_table()
        )
        rows = rows.append_column("state", fresh["state"].cast(pa.string()))
        rows = rows.append_column("why", fresh["why"].cast(pa.string()))
        return pa.concat_tables([rows, others], promote_options="permissive")


def _row(name: str, state: str, why: str = "") -> dict[str, Any]:
    """A row without a segment; every row has every column."""
    empty: dict[str, Any] = dict.fromkeys((*COLUMNS, "pixels", "shape"))
    return {**empty, "state": state, "why": why, "name": name, "segment": 0}


def ingest(found: Listing | ParquetVideos, model: str, url: str, report: Report = no_report) -> Added:
    """Adds what was listed to the library at a URL, on the Ray cluster that we are connected to. `model` is a bundle's
    name or folder."""
    library, skipped = Library(url, load_bundle(model)), []
    Cutter(library.bundle)  # a detector that cannot be loaded is named here, not by an actor
    if isinstance(found, ParquetVideos):
        total = found.rows
    else:
        total = len(found.sources)
        skipped = [Skipped(name, "has a caption, but there is no such file") for name in found.missing]
    counts: Counter[str] = Counter()
    seen: set[str] = set()  # ids of this run: one file under two names is cut twice and written once
    waiting: list[pa.Table] = []
    written = time.monotonic()
    try:
        for rows in _stream(found if isinstance(found, ParquetVideos) else found.sources, model, library):
            fresh = []
            for n, row in enumerate(rows.select(["state", "why", "name", "id", "segment"]).to_pylist()):
                if row["state"] == NEW and row["id"] in seen:
                    row["state"] = KNOWN
                elif row["state"] == NEW:
                    fresh.append(n)
                    seen.add(row["id"])
                elif row["state"] == SKIPPED:
                    skipped.append(Skipped(row["name"], row["why"]))
                if row["segment"] == 0:
                    counts[row["state"]] += 1
            report(counts.total(), total)
            waiting.append(rows.take(pa.array(fresh, pa.int64())))
            if sum(map(len, waiting)) >= COMMIT or time.monotonic() - written > COMMIT_S:
                _write(library, waiting)
                written = time.monotonic()
    finally:  # an interrupted run keeps what came so far
        if _write(library, waiting) or counts[NEW]:
            library.index()
    return Added(counts[NEW], counts[KNOWN], tuple(skipped))


def _write(library: Library, waiting: list[pa.Table]) -> int:
    """Writes the rows and forgets them; how many were new."""
    rows = pa.concat_tables(waiting, promote_options="permissive") if waiting else None
    waiting.clear()
    return library.write(rows.select(library.schema.names).cast(library.schema)) if rows else 0


def _stream(found: ParquetVideos | list[Source], model: str, library: Library) -> Iterator[pa.Table]:
    """The rows of all clips, as they get ready, in any order."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # there is our own
    context.target_max_block_size = BLOCK_BYTES
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    cores, cards = max(1, int(ray.cluster_resources().get("CPU", 1))), gpus()
    if isinstance(found, ParquetVideos):
        files, (fs, path) = found.rows, fsspec.url_to_fs(found.url)
        clips = ray.data.read_parquet(path, filesystem=fs, columns=found.columns, num_cpus=0.1)
    else:
        files = len(found)
        blocks = min(files, max(4 * cores, files // BATCH), MOST_BLOCKS)
        clips = ray.data.from_items([source._asdict() for source in found], override_num_blocks=blocks)
    made = {"model": model, "url": library.url, "device": "cuda" if cards else "cpu"}
    segments = library.bundle.library.segments
    on_card = 0.25 if cards and segments and segments.detector.kind == "yolos" else 0  # two cutters and a scorer a card
    most = min(cores, files // WORTH_A_CORE, 2 * cards if on_card else cores)
    pool = ActorPoolStrategy(min_size=1, max_size=max(1, most))
    # less than a core each: on a machine with one core the three kinds of task must be placed at the same time
    cut = clips.flat_map(CutClips, fn_constructor_kwargs=made, compute=pool, num_cpus=0.5, num_gpus=on_card)
    rows = cut.map_batches(
        EmbedClips, fn_constructor_kwargs=made, batch_size=BATCH, batch_format="pyarrow",
        compute=ActorPoolStrategy(size=max(1, cards)), num_cpus=0.1, num_gpus=0.5 if cards else 0,
    )  # fmt: skip
    yield from rows.iter_batches(batch_size=None, batch_format="pyarrow")
