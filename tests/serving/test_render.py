"""From a store to the files that people open."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
import yaml
from PIL import Image

from engine.plan import dump_plan, load_plan
from engine.video import read_video
from serving.cli import main
from serving.export import export
from serving.render import film_name

pytestmark = pytest.mark.cluster


@pytest.fixture
def command(a_film, tmp_path) -> list[str]:
    """The command that asks for the film that is in the store already."""
    store, request, _ = a_film
    plan = tmp_path / "fox.plan.yaml"
    plan.write_text(dump_plan(request.plan))
    steps = str(request.settings.num_inference_steps)
    return [
        "render",
        str(plan),
        "--steps",
        steps,
        "--guidance",
        str(request.settings.guidance_scale),
        "--seed",
        str(request.seed),
        "--storage",
        store.url,
        "--out",
        str(tmp_path / "films"),
    ]


def test_a_finished_film_is_written_without_ray(a_film, command, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))
    assert main(command) == 0
    folder = tmp_path / "films" / "fox"
    assert capsys.readouterr().out.strip() == str(folder / "film.mp4")
    store, request, _ = a_film
    digest = hashlib.sha256((folder / "film.mp4").read_bytes()).hexdigest()
    assert digest == store.record("film", request.film(request.plan).key)["notes"]["sha256"]
    frames, _ = read_video(folder / "film.mp4")
    assert len(frames) == 24 * len(request.plan.scenes)
    assert load_plan(folder / "plan.yaml") == request.plan
    page = (folder / "storyboard.html").read_text()
    assert not re.search(r'(src|href)\s*=\s*["\']https?:', page)
    assert all(region.caption in page for scene in request.plan.scenes for region in scene.regions)
    assert Image.open(folder / "contact.png").width > 600


def test_its_making_is_told_as_a_timeline(a_film, tmp_path) -> None:
    store, request, _ = a_film
    export(store, request, tmp_path)
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    told = {event["name"] for event in events if event["ph"] == "X" and event["cat"] == "scene"}
    assert told == {f"scene {scene.id}" for scene in request.plan.scenes}
    assert Image.open(tmp_path / "timeline.png").width > 600


def test_the_judge_reads_what_was_written(command, tmp_path, monkeypatch, capsys) -> None:
    assert main(command) == 0
    folder = tmp_path / "films" / "fox"
    capsys.readouterr()
    assert main(["judge", str(folder / "film.mp4"), "--plan", str(folder / "plan.yaml"), "--json"]) == 0
    assert '"scenes"' in capsys.readouterr().out


def test_a_damaged_scene_is_made_again(a_film, command, tmp_path, capsys) -> None:
    store, request, _ = a_film
    name = store.place("scene", request.film(request.plan).scenes[0].key, "clip.mp4")
    before = store.read(name)
    store.write(name, before[:-1] + b"!")
    assert main(command) == 0
    assert "is damaged; it is made again" in capsys.readouterr().err
    assert store.read(name) == before


def test_a_film_is_named_by_its_plan(tmp_path) -> None:
    assert film_name(tmp_path / "a-b.plan.yaml") == "a-b"
    assert film_name(tmp_path / "x.yml") == "x"
    assert film_name(tmp_path / "x.txt") == "x"
    assert film_name(tmp_path / "plan.yaml") == tmp_path.name


def test_a_dry_run_says_what_is_there_and_what_would_be_done(command, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))
    assert main([*command, "--dry-run"]) == 0
    assert "nothing would be rendered" in capsys.readouterr().out
    assert main([*command, "--dry-run", "--seed", "6"]) == 0
    told = capsys.readouterr().out
    assert "worker-seconds" in told and not (tmp_path / "films" / "fox" / "film.mp4").exists()
    settings = yaml.safe_load((tmp_path / "films" / "fox" / "resolved.yaml").read_text())
    assert settings["seed"] == 6 and settings["execution"]["device"] == "cpu"
