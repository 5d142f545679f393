"""Footage into the library by Ray Data: each kind of place, broken files among good ones, and going on."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.ingest import ingest
from engine.cutting import Captioned
from engine.errors import InputError
from engine.filling import add_clips
from engine.library import Library
from engine.miniature.clips import library_clips
from engine.models import load_bundle
from engine.sources import list_sources

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> str:
    """The miniature with a library that begins empty."""
    folder, source = tmp_path_factory.mktemp("bundle"), load_bundle("miniature").folder
    line = '  clips: "engine.miniature.clips:library_clips"\n'
    text = (source / "bundle.yaml").read_text()
    assert line in text
    (folder / "bundle.yaml").write_text(text.replace(line, ""))
    (folder / "scorers").symlink_to(source / "scorers")
    return str(folder)


@pytest.fixture(scope="module")
def few() -> list[Captioned]:
    return library_clips()[:12]


@pytest.fixture(scope="module")
def folder(few, tmp_path_factory) -> Path:
    """Twelve clips, one of them twice, and a file each that is broken, that has one frame, that has no caption."""
    place = tmp_path_factory.mktemp("footage")
    for n, clip in enumerate([*few, few[0]]):
        (place / f"{n}.mp4").write_bytes(clip.video)
        (place / f"{n}.txt").write_text(clip.caption)
    (place / "broken.webm").write_bytes(b"\x00" * 500)
    (place / "broken.txt").write_text("a fox spins around")
    (place / "silent.gif").write_bytes(few[1].video[:400])
    return place


def test_what_ray_adds_is_what_one_process_adds(ray_of_two, folder, few, bundle, tmp_path) -> None:
    seen: list[tuple[int, int]] = []
    url = str(tmp_path / "library")
    found = list_sources(folder.as_uri())
    add_clips(Library(url, load_bundle(bundle)), few[:3])  # three of them, one of these twice, are there already
    result = ingest(found, bundle, url, lambda done, total: seen.append((done, total)))
    assert (result.added, result.known, dict(result.skipped).keys()) == (9, 4, {"broken.webm", "silent.gif"})
    assert "cannot read the video" in dict(result.skipped)["broken.webm"]
    assert "no caption" in dict(result.skipped)["silent.gif"]
    assert seen[-1] == (15, 15)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    ours, alone = Library(url, load_bundle(bundle)), Library(str(tmp_path / "alone"), load_bundle(bundle))
    assert add_clips(alone, few).added == 12
    assert ours.fingerprint == alone.fingerprint
    assert ours.search("spins around", 12) == alone.search("spins around", 12)
    best = ours.search("spins around", 1)[0].id
    assert ours.clip(best) == alone.clip(best)


@pytest.mark.long  # Ray Data takes most of a minute to start its actors on a busy machine
def test_parquet_that_holds_videos(ray_of_two, few, bundle, tmp_path) -> None:
    """A Parquet file of rows that hold videos, half of which are in the library; the last holds none."""
    library = Library(str(tmp_path / "library"), load_bundle(bundle))
    add_clips(library, few[:6])
    rows = [{"video": c.video, "caption": c.caption} for c in few] + [{"video": b"none", "caption": "a fox"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "clips.parquet", row_group_size=4)
    result = ingest(list_sources(str(tmp_path / "clips.parquet")), bundle, library.url)
    assert (result.added, result.known, len(result.skipped)) == (6, 6, 1)
    assert len(library) == 12


def test_a_detector_that_is_none_is_named_at_the_door(folder, bundle, tmp_path) -> None:
    text, detector = Path(bundle, "bundle.yaml").read_text(), "{kind: background}"
    assert detector in text
    (tmp_path / "bundle.yaml").write_text(text.replace(detector, "{kind: yolos, model: hollow}"))
    (tmp_path / "hollow").mkdir()
    (tmp_path / "scorers").symlink_to(Path(bundle, "scorers"))
    with pytest.raises(InputError, match="hollow is no YOLOS model"):
        ingest(list_sources(str(folder)), str(tmp_path), str(tmp_path / "library"))
