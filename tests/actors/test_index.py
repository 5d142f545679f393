"""The index as a real Ray actor: it opens a library, fills it, answers, and says what has no clips."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

from actors.index import Index
from engine.filling import add_clips
from engine.library import Library
from engine.miniature.clips import library_clips
from engine.models import load_bundle
from engine.retrieval import Retrieval
from engine.video import read_video

pytestmark = pytest.mark.cluster


class Job(NamedTuple):
    motion: str
    model: str
    library: str


class ToFolder:
    """A delivery that writes into a folder, so that the test sees what the actor's process handed over."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def report(self, done: int, total: int) -> None:
        from pathlib import Path

        with Path(self.folder, "reports").open("a") as file:
            file.write(f"{done} {total}\n")

    def put(self, files: dict, notes: dict) -> None:
        from pathlib import Path

        for name, data in {**files, "notes.json": json.dumps(notes).encode()}.items():
            Path(self.folder, name).write_bytes(data)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> str:
    """The miniature with 24 first clips instead of 400, so that filling is quick."""
    folder = tmp_path_factory.mktemp("bundle")
    source = load_bundle("miniature").folder
    text = (source / "bundle.yaml").read_text()
    assert "engine.miniature.clips:library_clips" in text
    (folder / "bundle.yaml").write_text(text.replace("engine.miniature.clips:library_clips", f"{__name__}:first_clips"))
    (folder / "scorers").symlink_to(source / "scorers")
    return str(folder)


def first_clips():
    return library_clips()[:24]


@pytest.fixture(scope="module")
def index(ray_of_two):
    import ray

    actor = Index.remote()
    yield actor
    ray.kill(actor)


def test_it_fills_finds_and_hands_over(index, bundle, tmp_path) -> None:
    import ray

    assert ray.get(index.ready.remote()) > 0
    url = str(tmp_path / "library")
    ray.get(index.retrieve.remote(Job("spins around", bundle, url), ToFolder(str(tmp_path))))
    assert (tmp_path / "reports").read_text().splitlines()[-1] == "24 24"
    retrieval = Retrieval.model_validate_json((tmp_path / "retrieval.json").read_text())
    assert retrieval.motion == "spins around"
    assert [step.name for step in retrieval.steps] == ["words", "attributes", "subjects", "scorers"]
    files = sorted(tmp_path.glob("clip-*.mp4"))
    assert len(files) == len(retrieval.selected) >= 4
    library = Library(url, load_bundle(bundle))
    assert files[0].read_bytes() == library.clip(retrieval.selected[0].id)
    assert read_video(files[0])[0].shape == (24, 64, 112, 3)
    notes = json.loads((tmp_path / "notes.json").read_text())
    assert notes["kept"]["scorers"] == len(files)
    assert notes["library_clips"] == 24
    assert ray.get(index.fingerprint.remote(bundle, url)) == library.fingerprint


def test_it_sees_what_others_add(index, bundle, tmp_path) -> None:
    import ray

    url = str(tmp_path / "library")
    before = ray.get(index.fingerprint.remote(bundle, url))
    library = Library(url, load_bundle(bundle))
    assert add_clips(library, library_clips()[300:301]).added == 1
    assert ray.get(index.fingerprint.remote(bundle, url)) == library.fingerprint != before


def test_no_clips_for_a_motion_names_it(index, bundle, tmp_path) -> None:
    import ray

    job = Job("juggles", bundle, str(tmp_path / "library"))
    with pytest.raises(ray.exceptions.RayTaskError, match="motion 'juggles': no clip of the library"):
        ray.get(index.retrieve.remote(job, ToFolder(str(tmp_path))))
    assert not (tmp_path / "retrieval.json").exists()
