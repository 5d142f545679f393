"""Footage with captions, wherever fsspec can read: a folder, one file, or a Parquet file. Listed first, read later.

Captions stand in a .txt file of the same name beside each video, or all in captions.csv or captions.parquet with the
columns file and caption. A Parquet file given by itself has the column caption, and either video (the files' bytes) or
file (their places beside it, or URLs).
"""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import fsspec
import pyarrow.parquet as pq
from pyarrow import ArrowException

from engine.cutting import Captioned
from engine.errors import InputError

VIDEOS = (".mp4", ".webm", ".gif")
CSV, PARQUET = "captions.csv", "captions.parquet"


class Source(NamedTuple):
    """A clip before it is read. `url`: its file; `caption`: what is known of it without reading `sidecar`."""

    name: str
    url: str
    caption: str = ""
    sidecar: str = ""

    def read(self) -> Captioned:
        """Raises InputError when the file cannot be read."""
        try:
            caption = _read(self.sidecar).decode(errors="replace") if self.sidecar else self.caption
            return Captioned(caption, _read(self.url), self.name)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be read: {_why(error)}") from None


class Listing(NamedTuple):
    """What a place has: clips, and names for which captions.csv has words but nobody a file."""

    sources: list[Source]
    missing: list[str]


class ParquetVideos(NamedTuple):
    """A Parquet file whose rows hold the videos themselves; `columns`: those to be read."""

    url: str
    rows: int
    columns: list[str]


def row_clip(row: dict[str, Any]) -> Captioned:
    """A clip from such a row, called by the column name or else by its content."""
    clip = Captioned(row["caption"] or "", row["video"] or b"", row.get("name") or "")
    return clip if clip.name else clip._replace(name=f"the clip {clip.source[:12]}")


def list_sources(place: str) -> Listing | ParquetVideos:
    """What there is to be added at a folder, file or URL. Raises InputError when there is nothing."""
    place = place if "://" in place else str(Path(place).absolute())
    try:
        fs, root = fsspec.url_to_fs(place)
        is_file, is_folder = fs.isfile(root), fs.isdir(root)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{place}: {_why(error)}") from None
    if is_file and root.lower().endswith(".parquet"):
        return _parquet(place)
    if is_file and root.lower().endswith(VIDEOS):
        text = str(PurePosixPath(root).with_suffix(".txt"))
        sidecar = fs.unstrip_protocol(text) if fs.isfile(text) else ""
        return Listing([Source(PurePosixPath(root).name, fs.unstrip_protocol(root), sidecar=sidecar)], [])
    names = {path[len(root) :].lstrip("/"): path for path in sorted(fs.find(root))} if is_folder else {}
    videos = [name for name in names if name.lower().endswith(VIDEOS)]
    if not videos:
        raise InputError(
            f"{place}: no video in it; name a folder with {', '.join(VIDEOS)} files and their captions, one of them, "
            f"or a Parquet file"
        )
    captions: dict[str, str] = {}
    for table, read in ((CSV, _read_csv), (PARQUET, _read_parquet)):
        if table in names:
            captions |= read(fs.unstrip_protocol(names[table]))
    sources = []
    for name in videos:
        text = names.get(str(PurePosixPath(name).with_suffix(".txt")), "")
        sidecar = fs.unstrip_protocol(text) if text else ""
        sources.append(Source(name, fs.unstrip_protocol(names[name]), captions.get(name, ""), sidecar))
    return Listing(sources, sorted(captions.keys() - set(videos)))


def _parquet(url: str) -> Listing | ParquetVideos:
    try:
        with fsspec.open(url) as file:
            about = pq.ParquetFile(file)
            columns, rows = set(about.schema_arrow.names), about.metadata.num_rows
    except (OSError, ArrowException) as error:
        raise InputError(f"{url}: is no Parquet file ({_why(error)})") from None
    if "caption" not in columns or not columns & {"video", "file"}:
        raise InputError(
            f"{url}: has the columns {', '.join(sorted(columns))}; needed are caption, and either video (bytes) or file"
        )
    if not rows:
        raise InputError(f"{url}: no video in it: it has no rows")
    if "video" in columns:
        return ParquetVideos(url, rows, sorted(columns & {"video", "caption", "name"}))
    beside = url.rpartition("/")[0]
    named = _read_parquet(url).items()
    return Listing([Source(n, n if "://" in n else f"{beside}/{n}", caption) for n, caption in named], [])


def _read_parquet(url: str) -> dict[str, str]:
    """Captions by file name. Raises InputError."""
    try:
        with fsspec.open(url) as file:
            rows = pq.read_table(file, columns=["file", "caption"]).to_pylist()
    except (OSError, ArrowException, KeyError) as error:
        raise InputError(f"{url}: {_why(error)}; needed are the columns file and caption") from None
    return {row["file"]: row["caption"] or "" for row in rows if row["file"]}


def _read_csv(url: str) -> dict[str, str]:
    """Captions by file name. Raises InputError."""
    try:
        rows = list(csv.DictReader(_read(url).decode("utf-8-sig").splitlines()))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{url}: {error}; write it as CSV in UTF-8 with the columns file,caption") from None
    if rows and not {"file", "caption"} <= rows[0].keys():
        raise InputError(f"{url}: its first line must be: file,caption")
    return {row["file"]: row["caption"] or "" for row in rows}


def _read(url: str) -> bytes:
    with fsspec.open(url, "rb") as file:
        return file.read()


def _why(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
