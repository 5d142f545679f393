"""`dreamrunner library`: add clips to the motion library, search it, and see what is in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cluster.store import Store
from engine.errors import InputError
from engine.models import load_bundle
from engine.video import read_video
from serving.contact import FAINT, INK, PAPER, keyframe_stills

if TYPE_CHECKING:
    from engine.library import Library
    from engine.retrieval import Candidate

library_app = typer.Typer(help="The motion library: clips that motions are learned from.", no_args_is_help=True)
console = Console(stderr=True)

STILL_WIDTH, GAP, LINE = 160, 8, 22  # pixels, of the contact sheet

ModelOption = Annotated[str, typer.Option(help="a built-in model, or a folder with a bundle.yaml")]
StorageOption = Annotated[str, typer.Option(help="where results are kept: a folder, or s3://..., gs://...")]


@library_app.command()
def add(
    place: Annotated[
        str,
        typer.Argument(
            help="a folder of mp4, webm and gif files, one of them, or a Parquet file; or a URL of it",
            metavar="FOLDER|PARQUET",
        ),
    ],
    model: ModelOption = "miniature",
    storage: StorageOption = ".dreamrunner",
    address: Annotated[str | None, typer.Option(help="a Ray cluster to use, e.g. auto or ray://host:10001")] = None,
) -> None:
    """Adds footage, cut into segments around its subjects.

    Captions stand in a .txt file of the same name beside each video, or all in captions.csv or captions.parquet with
    the columns file and caption. A Parquet file by itself has the columns caption, and video (bytes) or file. What is
    in the library already is not added twice: run the same command after any interruption and it goes on.
    """
    from cluster.ingest import ingest
    from cluster.local import ray_cluster
    from engine.sources import list_sources

    found = list_sources(place)  # what is wrong with it is said before anything starts
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray Data's actors make Ray warn of how they are made
    with ray_cluster(address, 1):  # first: LanceDB's threads do not like the processes that Ray starts
        library, store = open_library(model, storage), Store(storage)
        before = library.fingerprint
        try:
            with _progress() as progress:
                bar = progress.add_task("adding", total=None)
                result = ingest(
                    found, str(library.bundle.folder.absolute()), library.url,
                    lambda done, total: progress.update(bar, completed=done, total=total),
                )  # fmt: skip
        finally:  # films asked for from now on search anew, even when this was interrupted
            if library.fingerprint != before:
                store.write(f"library/{library.bundle.name}.version", library.fingerprint.encode())
    for skipped in result.skipped:
        console.print(f"Skipped {skipped.name}: {skipped.why}", soft_wrap=True, markup=False)
    console.print(
        f"{result.added} added, {result.known} there already, {len(result.skipped)} skipped; "
        f"the library at {library.url} holds {len(library)} segments.",
        soft_wrap=True, markup=False,
    )  # fmt: skip


@library_app.command()
def search(
    text: Annotated[str, typer.Argument(help='what happens in the clips, e.g. "spins around"')],
    limit: Annotated[int, typer.Option(help="most hits shown", min=1, max=100)] = 10,
    model: ModelOption = "miniature",
    storage: StorageOption = ".dreamrunner",
    out: Annotated[Path, typer.Option(help="the contact sheet of the hits")] = Path("library.png"),
) -> None:
    """Shows the segments whose captions share a word with TEXT and those that look like it, the most alike first."""
    library = open_library(model, storage)
    hits = library.search(text, limit)
    if not hits:
        raise InputError(f"search {text!r}: none of the {len(library)} captions has one of these words")
    table = Table("caption", "score", "clip", "xclip", "bm25", "id", title=f"{text} ({len(library)} segments)")
    for hit in hits:
        numbers = ("" if n is None else f"{n:.3f}" for n in (hit.score, hit.clip, hit.xclip, hit.bm25))
        table.add_row(hit.caption, *numbers, hit.id[:12])
    Console().print(table)
    if all(hit.bm25 is None for hit in hits):
        console.print("No caption has one of these words; these only look most like it.")
    write_sheet(out, hits, [read_video(library.clip(hit.id))[0] for hit in hits])
    print(out)


@library_app.command()
def stats(model: ModelOption = "miniature", storage: StorageOption = ".dreamrunner") -> None:
    """Counts what the library holds."""
    library = open_library(model, storage)
    held = library.stats()
    table = Table(show_header=False)
    for name, value in (
        ("place", library.url),
        ("clips", f"{held.clips}"),
        ("segments", f"{held.segments}"),
        ("seconds", f"{held.seconds:.0f}"),
        ("stored", f"{held.stored_bytes / 1e6:.1f} MB"),
        ("sizes", ", ".join(f"{size}: {n}" for size, n in held.sizes.items())),
        ("frequent words", ", ".join(f"{word}: {n}" for word, n in held.words.items())),
    ):
        table.add_row(name, value)
    Console().print(table)


def open_library(model: str, storage: str) -> Library:
    """The model's library in the storage; a new one is first filled with the clips that the model brings along."""
    from engine.filling import prepare
    from engine.library import Library

    bundle = load_bundle(model)
    library = Library(f"{Store(storage).url.rstrip('/')}/library/{bundle.name}", bundle)
    with _progress() as progress:
        bar = progress.add_task("filling the library", total=None, visible=False)
        prepare(library, lambda done, total: progress.update(bar, completed=done, total=total or None, visible=True))
    return library


def write_sheet(path: Path, hits: Sequence[Candidate], clips: Sequence[np.ndarray]) -> None:
    """A PNG with a row for each hit: its caption and score, and six frames of its clip, uint8 (T, H, W, 3)."""
    font = ImageFont.load_default(14)
    rows = []
    for hit, frames in zip(hits, clips, strict=True):
        stills = keyframe_stills(frames)
        height = round(stills.shape[1] * STILL_WIDTH / stills.shape[2])
        row = Image.new("RGB", (len(stills) * (STILL_WIDTH + GAP) + GAP, LINE + height + 2 * GAP), PAPER)
        draw = ImageDraw.Draw(row)
        score = "" if hit.score is None else f"{hit.score:.2f}"
        draw.text((GAP, GAP), score, FAINT, font)
        draw.text((GAP + 40 * bool(score), GAP), hit.caption, INK, font)
        for n, still in enumerate(stills):
            picture = Image.fromarray(still).resize((STILL_WIDTH, height), Image.Resampling.LANCZOS)
            row.paste(picture, (GAP + n * (STILL_WIDTH + GAP), GAP + LINE))
        rows.append(row)
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)
