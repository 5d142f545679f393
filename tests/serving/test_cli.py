"""Bad input ends at the door: exit code 2, one clear line, nothing written, no Ray."""

from __future__ import annotations

import pytest

from serving.cli import main
from tests.engine.test_plan import GOOD


@pytest.fixture
def plan(tmp_path):
    file = tmp_path / "walk.plan.yaml"
    file.write_text(GOOD)
    return file


def _refused(capsys, monkeypatch, *arguments: str) -> str:
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))
    code = main(list(arguments))
    error = capsys.readouterr().err.strip()
    assert code == 2, error
    assert len(error.splitlines()) == 1, error
    return error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "gigantic"], "--model gigantic: no such model; use miniature, cogvideox-2b"),
        (["--workers", "0"], "--workers 0: must be 1.."),
        (["--workers", "-3"], "--workers -3: must be 1.."),
        (["--seed", "-1"], "--seed -1: must be 0 or more"),
        (["--steps", "1"], "--steps 1:"),
        (["--guidance", "0.5"], "--guidance 0.5:"),
        (["--workers", "many"], "'--workers'"),
        (["--storage", "/proc/nowhere"], "--storage /proc/nowhere: cannot write there"),
        (["--storage", "gopher://x"], "--storage gopher://x"),
        (["--out", "/proc/nowhere"], "--out"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_options(capsys, monkeypatch, tmp_path, plan, options, words) -> None:
    error = _refused(
        capsys,
        monkeypatch,
        "render",
        str(plan),
        "--storage",
        str(tmp_path / "s"),
        "--out",
        str(tmp_path / "o"),
        *options,
    )
    assert words in error


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("1.0]\n          4", "1.2]\n          4", "line 9: scenes.0.regions.0.boxes: keyframe 1-3: bottom is 1.2"),
        ("entity: fox", "entity: kangaroo", "regions.0.entity: miniature does not know 'kangaroo'; use one of fox"),
        ("motion: walks right", "motion: does tricks", "regions.0.motion: miniature does not know 'does tricks'"),
        ("in the forest\n    regions", "in the office\n    regions", "names no stage that miniature knows; use one of"),
        ("caption: a fox", "caption: " + "very " * 40, "45 words, but miniature reads at most 31"),
    ],
)  # fmt: skip
def test_plans(capsys, monkeypatch, tmp_path, plan, old, new, words) -> None:
    assert old in GOOD
    plan.write_text(GOOD.replace(old, new))
    storage, out = tmp_path / "s", tmp_path / "o"
    error = _refused(capsys, monkeypatch, "render", str(plan), "--storage", str(storage), "--out", str(out))
    assert words in error
    assert not storage.exists() and not out.exists()


@pytest.mark.parametrize("text", ["", "scenes: []\n", "nonsense"])
def test_an_empty_plan(capsys, monkeypatch, tmp_path, plan, text) -> None:
    plan.write_text(text)
    assert "plan" in _refused(capsys, monkeypatch, "render", str(plan), "--storage", str(tmp_path / "s"))


def test_a_plan_that_is_not_there(capsys, monkeypatch) -> None:
    assert "cannot read the plan no.yaml" in _refused(capsys, monkeypatch, "render", "no.yaml")


def test_two_plans_for_one_folder(capsys, monkeypatch, tmp_path, plan) -> None:
    error = _refused(capsys, monkeypatch, "render", str(plan), str(plan), "--out", str(tmp_path / "o"))
    assert "would both be written" in error


def test_an_address_where_nobody_answers(capsys, monkeypatch, plan, tmp_path) -> None:
    error = _refused(capsys, monkeypatch, "render", str(plan), "--address", "127.0.0.1:1", "--storage", str(tmp_path))
    assert "--address 127.0.0.1:1: no Ray cluster answers there" in error


def test_judging_what_is_no_film(capsys, tmp_path, plan) -> None:
    (tmp_path / "film.mp4").write_bytes(b"not a film")
    assert main(["judge", str(tmp_path / "film.mp4"), "--plan", str(plan)]) == 2
    assert "cannot read the video" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["/proc/nowhere/plan.yaml", "."])
def test_a_plan_that_cannot_be_written_is_not_made(capsys, monkeypatch, tmp_path, out) -> None:
    story = tmp_path / "s.txt"
    story.write_text("A fox walks.")
    error = _refused(capsys, monkeypatch, "plan", str(story), "-o", out, "--storage", str(tmp_path / "s"))
    assert "--out" in error


def test_what_is_no_story(capsys, monkeypatch, tmp_path) -> None:
    (tmp_path / "s.txt").write_text("")
    assert "the story is empty" in _refused(capsys, monkeypatch, "render", str(tmp_path / "s.txt"))
