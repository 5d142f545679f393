"""Bad input ends at the door: exit code 2, one clear line, nothing written, no Ray."""

from __future__ import annotations

import json

import pytest

from serving.cli import main
from tests.engine.test_plan import GOOD


@pytest.fixture
def plan(tmp_path):
    file = tmp_path / "walk.plan.yaml"
    file.write_text(GOOD)
    return file


def _refused(capsys, monkeypatch, *arguments: str, exit_code: int = 2) -> str:
    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))
    code = main(list(arguments))
    error = capsys.readouterr().err.strip()
    assert code == exit_code, error
    assert len(error.splitlines()) == 1, error
    return error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "gigantic"], "--model gigantic: no such model; use miniature, miniature-plain, cogvideox-2b"),
        (["--workers", "0"], "--workers 0: must be 1.."),
        (["--workers", "-3"], "--workers -3: must be 1.."),
        (["--seed", "-1"], "--seed -1: must be 0 or more"),
        (["--steps", "1"], "--steps 1:"),
        (["--guidance", "0.5"], "--guidance 0.5:"),
        (["--cache", "0"], "--cache 0"),
        (["--cache", "0.3", "--guidance-parallel", "2", "--workers", "2"], "--cache 0.3: every worker would decide"),
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
    command = ["render", str(plan), "--address", "127.0.0.1:1", "--storage", str(tmp_path)]
    error = _refused(capsys, monkeypatch, *command, exit_code=3)
    assert "--address 127.0.0.1:1: no Ray cluster answers there" in error
    assert error.endswith(f"run: dreamrunner {' '.join(command)}")


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


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["plan", "s.txt", "--topic", "a walk"], "one story is planned at a time, or one --topic, but 1 files"),
        (["plan"], "or one --topic, but 0 files"),
        (["plan", "--topic", "x" * 201], "topic: String should have at most 200 characters"),
        (["plan", "s.txt", "--planner-model", "m"], "say where it is with --planner-url"),
        (["plan", "s.txt", "--planner-url", "http://h/v1"], "name the model there with --planner-model"),
        (["render", "s.txt", "--planner-url", "h", "--planner-model", "m"], "must look like http://"),
        (["render", "s.txt"], "s.txt: the story names nobody whom miniature can draw"),
        (["plan", "t.txt"], "t.txt: it has a topic and a text"),
    ],
)
def test_what_cannot_be_planned(capsys, monkeypatch, tmp_path, arguments, why) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.txt").write_text("Es war einmal ein Hund.")
    (tmp_path / "t.txt").write_text("---\ntopic: a walk\n---\nA fox walks.")
    assert why in _refused(capsys, monkeypatch, *arguments)


def test_plans_are_checked(capsys, tmp_path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.jsonl"
    frame = '[["fox", "walking", "A fox is walking in a forest"], [0.1, 0.3, 0.5, 0.9]]'
    good.write_text("Background: a forest\n" + "\n".join(f"Frame_{n}: {frame}" for n in range(1, 7)))
    assert main(["plan", "--check", str(good)]) == 0
    assert "1 of 1 plans keep all rules" in capsys.readouterr().err
    thin = good.read_text().replace("0.5, 0.9", "0.2, 0.9")
    bad.write_text(json.dumps(["0001.mp4", thin]) + "\n" + json.dumps(["0002.mp4", good.read_text()]))
    assert main(["plan", "--check", str(good), str(bad)]) == 1
    seen = capsys.readouterr()
    assert "bad.jsonl: 0001-mp4: regions.0 (fox), keyframe 1: the box is 0.10 x 0.60" in seen.out
    assert "2 of 3 plans keep all rules" in seen.err


def test_plans_are_compared(capsys, monkeypatch, tmp_path, plan) -> None:
    other = tmp_path / "other.plan.yaml"
    other.write_text(plan.read_text())
    assert main(["plan", "--diff", str(plan), str(other)]) == 0
    assert capsys.readouterr().out.strip() == "no difference"
    assert "--diff compares two plans, but 1 files" in _refused(capsys, monkeypatch, "plan", "--diff", str(plan))
    assert "one story is planned at a time" in _refused(capsys, monkeypatch, "plan", str(plan), str(other))
    many = tmp_path / "many.jsonl"
    many.write_text("")
    assert "holds 0 plans" in _refused(capsys, monkeypatch, "plan", "--diff", str(plan), str(many))
    many.write_text("[1,")
    assert "JSON list of a name and a plan's text" in _refused(capsys, monkeypatch, "plan", "--check", str(many))
