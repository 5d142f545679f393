"""What there is to add at a place: folders, single files and Parquet, on disk and in object storage."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError
from engine.sources import Listing, ParquetVideos, Source, list_sources, row_clip


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three videos, each with its caption told in another way, one without, and things that are no videos."""
    (tmp_path / "more").mkdir()
    for name in ("a.mp4", "more/b.WEBM", "c.gif", "d.mp4", "notes.md"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "a.txt").write_text("a fox\n")
    (tmp_path / "captions.csv").write_text('file,caption\nmore/b.WEBM,"a ""big"" owl, asleep"\ngone.mp4,nobody\n')
    pq.write_table(pa.table({"file": ["c.gif"], "caption": ["a pig"]}), tmp_path / "captions.parquet")
    return tmp_path


def told(found: Listing) -> dict[str, str]:
    return {clip.name: clip.caption.strip() for clip in (source.read() for source in found.sources)}


def test_a_folder(folder) -> None:
    found = list_sources(str(folder))
    assert told(found) == {"a.mp4": "a fox", "c.gif": "a pig", "d.mp4": "", "more/b.WEBM": 'a "big" owl, asleep'}
    assert found.missing == ["gone.mp4"]
    assert found.sources[0].read().video == b"a.mp4"


def test_object_storage(folder) -> None:
    """fsspec's memory stands for s3 and gs: the same interface, no folders of their own."""
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/clips", recursive=True)
    try:
        found = list_sources("memory://bucket/clips")
        assert told(found) == told(list_sources(str(folder)))
        assert all(source.url.startswith("memory://") for source in found.sources)
        assert isinstance(list_sources("memory://bucket/clips/a.mp4"), Listing)
    finally:
        memory.rm("/bucket", recursive=True)


def test_one_file(folder) -> None:
    assert told(list_sources(str(folder / "a.mp4"))) == {"a.mp4": "a fox"}


def test_parquet_that_names_files(folder) -> None:
    away = (folder / "a.mp4").as_uri()
    pq.write_table(pa.table({"file": ["more/b.WEBM", away], "caption": ["an owl", "a fox"]}), folder / "list.parquet")
    assert told(list_sources(str(folder / "list.parquet"))) == {"more/b.WEBM": "an owl", away: "a fox"}


def test_parquet_that_holds_videos(folder) -> None:
    pq.write_table(pa.table({"video": [b"x", b"y"], "caption": ["a fox", None], "more": [1, 2]}), folder / "v.parquet")
    found = list_sources(str(folder / "v.parquet"))
    assert isinstance(found, ParquetVideos)
    assert (found.rows, found.columns) == (2, ["caption", "video"])
    assert row_clip({"video": b"y", "caption": None}).caption == ""
    assert row_clip({"video": b"y", "caption": "", "name": "me"}).name == "me"
    assert row_clip({"video": b"y", "caption": ""}).name.startswith("the clip a1fce436")  # its sha256


def test_a_file_that_went_away(folder) -> None:
    with pytest.raises(InputError, match=r"cannot be read: .*gone"):
        Source("gone.mp4", str(folder / "gone.mp4"), "a fox").read()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("x.parquet", b"nothing", "is no Parquet file"),
        ("captions.csv", b"name;text\na.mp4;a fox\n", "its first line must be: file,caption"),
        ("captions.csv", b"file,caption\n\xff\xfe,x\n", "write it as CSV in UTF-8"),
        ("captions.parquet", b"nothing", "needed are the columns file and caption"),
    ],
)
def test_what_is_wrong_is_named(folder, name, content, why) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: .*{why}"):
        list_sources(str(folder / name if name == "x.parquet" else folder))


def test_nothing_to_add(folder, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("empty", "notes.md", "nowhere"):
        with pytest.raises(InputError, match=f"{place}: no video in it; name a folder"):
            list_sources(str(tmp_path / place))
    pq.write_table(pa.table({"text": ["a fox"]}), tmp_path / "bad.parquet")
    with pytest.raises(InputError, match="has the columns text; needed are caption"):
        list_sources(str(tmp_path / "bad.parquet"))
    pq.write_table(
        pa.table({"video": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}), tmp_path / "no.parquet"
    )
    with pytest.raises(InputError, match="it has no rows"):
        list_sources(str(tmp_path / "no.parquet"))
    with pytest.raises(InputError, match="nosuch://clips: "):
        list_sources("nosuch://clips")
