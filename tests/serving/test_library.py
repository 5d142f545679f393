"""`dreamrunner library` in this process: add, search, stats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cluster.store import Store
from engine.errors import InputError
from engine.miniature.clips import library_clips
from engine.models import load_bundle
from serving.library import library_app


@pytest.fixture(scope="module")
def empty_miniature(tmp_path_factory) -> str:
    """The miniature without the 400 clips that its library begins with."""
    folder, source = tmp_path_factory.mktemp("bundle"), load_bundle("miniature").folder
    text, clips = (source / "bundle.yaml").read_text(), '  clips: "engine.miniature.clips:library_clips"\n'
    assert clips in text
    (folder / "bundle.yaml").write_text(text.replace(clips, ""))
    (folder / "scorers").symlink_to(source / "scorers")
    return str(folder)


@pytest.fixture
def videos(tmp_path) -> Path:
    """Eight clips, four with captions beside them and three in captions.csv, and one file that is no video."""
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    lines = ["file,caption"]
    for n, clip in enumerate(library_clips()[:8]):
        name = f"more/{n}.mp4" if n > 3 else f"{n}.mp4"
        (folder / name).write_bytes(clip.video)
        if n < 4:
            (folder / f"{n}.txt").write_text(clip.caption + "\n")
        elif n < 7:
            lines.append(f'{name},"{clip.caption}"')
    (folder / "captions.csv").write_text("\n".join(lines))
    (folder / "broken.webm").write_bytes(b"\x00" * 100)
    (folder / "broken.txt").write_text("a fox spins around")
    return folder


def run(*arguments: str, code: int = 0):
    result = CliRunner().invoke(library_app, list(map(str, arguments)), env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.mark.cluster
def test_add_search_stats(ray_of_two, videos, empty_miniature, tmp_path) -> None:
    at = ("--model", empty_miniature, "--storage", tmp_path / "store")
    store = Store(str(tmp_path / "store"))
    first = run("add", videos, *at).stderr
    version = store.read("library/miniature.version")
    assert version  # by which films know that they must search again
    assert "Skipped broken.webm: cannot read the video" in first
    assert "Skipped more/7.mp4: it has no caption" in first
    assert "7 added, 0 there already, 2 skipped" in first

    sheet = tmp_path / "hits" / "sheet.png"
    found = run("search", "is spinning", "--limit", "3", "--out", sheet, *at).stdout
    assert "spin" in found
    assert found.splitlines()[-1] == str(sheet)
    looks = run("search", "juggles", "--limit", "2", "--out", sheet, *at)
    assert "No caption has one of these words" in looks.stderr
    picture = np.asarray(Image.open(sheet))
    assert picture.shape[1] > 900
    assert picture.std() > 20

    table = run("stats", *at).stdout
    assert "112x64: 7" in table
    assert table.count(" 7 ") >= 2  # clips and segments
    assert "21" in table  # seconds


def test_bad_input_says_what_to_do(videos, empty_miniature, tmp_path) -> None:
    at = ("--model", empty_miniature, "--storage", tmp_path / "store")
    with pytest.raises(InputError, match="nothing: no video in it"):
        run("add", tmp_path / "nothing", *at)
    (videos / "captions.csv").write_text("name;text\n0.mp4;a fox\n")
    with pytest.raises(InputError, match=r"captions.csv: its first line must be: file,caption"):
        run("add", videos, *at)
    with pytest.raises(InputError, match="search 'juggles': none of the 0 captions"):
        run("search", "juggles", *at)
    run("search", "juggles", "--limit", "0", *at, code=2)
