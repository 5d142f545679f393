"""The real planner: vLLM with the miniature's language model and adapter, in a Ray actor."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from actors.planner import Planner
from benchmarks.planner import SENTENCES, Score, TrueScene, read_told
from engine.errors import InputError
from engine.models import load_bundle
from engine.plan import load_plan
from engine.planner_prompts import split_sentences
from engine.story import Story

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]  # vLLM loads in 20 s, in minutes on a busy machine
GIVEN = "Suddenly a dragon spun around like a top on the beach, and the robot watched."


@dataclass
class Folder:
    """A delivery that keeps what it is given in a folder; actor and test are on one machine."""

    path: Path

    def report(self, done: int, total: int) -> None:
        with (self.path / "reports").open("a") as file:
            file.write(f"{done}/{total}\n")

    def put(self, files: dict[str, bytes], notes: dict[str, Any]) -> None:
        for name, data in files.items():
            (self.path / name).write_bytes(data)
        (self.path / "notes.json").write_text(json.dumps(notes))


@dataclass(frozen=True)
class Task:
    story: Story
    seed: int = 0
    model: str = "miniature"
    planner: None = None


@pytest.fixture(scope="module")
def planner(ray_of_two) -> Iterator[Any]:
    planner = Planner.remote()
    yield planner
    ray.kill(planner)


def test_a_story_is_planned(planner, tmp_path) -> None:
    told = next(told for told in read_told(SENTENCES) if told.story.startswith("Once there was a pig"))
    given = TrueScene(
        characters=["dragon", "robot"], motions={"dragon": "spins around", "robot": "stands still"}, place="beach"
    )
    told = told.model_copy(update={"story": f"{told.story} {GIVEN}", "scenes": [*told.scenes, given]})
    text = told.story
    story = Story(title="The fox and the robot", text=text, characters={"dragon": ("0" * 64,)})
    ray.get(planner.plan.remote(Task(story), Folder(tmp_path)))

    plan = load_plan(tmp_path / "plan.yaml")
    assert plan.title == story.title
    assert " ".join(scene.narration for scene in plan.scenes) == text
    reports = (tmp_path / "reports").read_text().split()
    assert reports[0] == "0/0"
    assert reports[-1] == f"{len(plan.scenes)}/{len(plan.scenes)}"
    answers = json.loads((tmp_path / "answers.json").read_text())
    levels = ["story"] * len(split_sentences(text)) + ["scene"] * len(plan.scenes)
    assert [a["level"] for a in answers if a["refused"] is None] == levels
    notes = json.loads((tmp_path / "notes.json").read_text())
    assert notes["planner"] == load_bundle("miniature").planner.model
    assert notes["attempts"] == len(answers)
    assert notes["seconds"]["planning"] > 0

    score = Score()
    score.add(told, plan.scenes)  # of 4 scenes; how well it does on all stories is in benchmarks/planner.py
    assert score.places[True] >= 3, score.wrong
    assert score.found >= 4, score.wrong  # of 5
    assert score.motions[True] >= 3, score.wrong  # of 5
    spun = [r for scene in plan.scenes for r in scene.regions if r.entity == "dragon"]
    assert all(region.caption.startswith("a [v1] dragon ") for region in spun)


def test_an_empty_story_is_refused(planner, tmp_path) -> None:
    empty = Story.model_construct(title="", text=" ", characters={})
    with pytest.raises(InputError, match="story: text: it is empty"):
        ray.get(planner.plan.remote(Task(empty), Folder(tmp_path)))
    assert not (tmp_path / "plan.yaml").exists()


def test_no_process_is_left_when_it_closes_or_is_killed(planner) -> None:
    process = psutil.Process(ray.get(planner.ready.remote()))
    children = process.children(recursive=True)
    assert len(children) >= 1  # vLLM's EngineCore and its worker
    ray.get(planner.close.remote())
    assert _still_running(children) == []

    assert ray.get(planner.ready.remote()) == process.pid  # it can be asked again
    children = process.children(recursive=True)
    assert len(_still_running(children, 0)) >= 1
    os.kill(process.pid, signal.SIGKILL)
    assert _still_running(children) == []


def _still_running(processes: list[psutil.Process], seconds: float = 60) -> list[psutil.Process]:
    """Those that have not ended after so long; one that has ended and whose end nobody asked for is no longer there."""
    until = time.monotonic() + seconds
    while True:
        running = [p for p in processes if p.is_running() and _state(p) not in (None, psutil.STATUS_ZOMBIE)]
        if not running or time.monotonic() >= until:
            return running
        time.sleep(0.5)


def _state(process: psutil.Process) -> str | None:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return None
