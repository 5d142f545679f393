"""The benchmark that kills: what it counts with, and runs of few kills."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.chaos import DEGREES, KINDS, OF_THEIR_OWN, Family, film, rounds
from benchmarks.chaos_asker import count
from cluster.store import Store
from tests.conftest import ROOT

# what it counts with


@pytest.mark.parametrize("per_film", [1, 4])
def test_each_kind_has_its_turn(per_film) -> None:
    for seed in range(5):
        films = rounds(list(KINDS), 50, per_film, random.Random(seed))
        kinds = [kind for _, film in films for kind in film]
        assert len(kinds) == 50 and min(map(kinds.count, KINDS)) >= 3
        assert {degree for degree, _ in films} == {1, 2}
        assert max(len(film) for _, film in films) == per_film
        for degree, kills in films:
            assert not {"worker", "pair"} <= set(kills) and DEGREES.get(kills[0], degree) == degree
            assert len(kills) == 1 or not set(kills) & set(OF_THEIR_OWN)
    assert rounds(list(KINDS), 50, 4, random.Random(0)) == rounds(list(KINDS), 50, 4, random.Random(0))


def test_a_family_includes_those_whose_parents_are_gone() -> None:
    family = Family()
    parent = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 61 & wait"])
    family.add(parent.pid)
    deadline = time.monotonic() + 10
    while len(family.alive()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert sorted(title.strip() for title in family.alive().values()) == ["sleep 60", "sleep 61"]
    for pid in family.alive():
        os.kill(pid, signal.SIGKILL)
    while family.alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert family.alive() == {}
    family.ending = True


def _make(store: Store, request, latents: bytes = b"latents") -> None:
    made = request.film(request.plan)
    for job in made.scenes:
        store.put(*job.result, {"latents.safetensors": latents, "clip.mp4": b"clip"}, {})
    store.put("film", made.key, {"film.mp4": b"film"}, {})


def test_what_is_lost_or_differs_is_counted(tmp_path) -> None:
    store, reference = Store(str(tmp_path / "store")), Store(str(tmp_path / "reference"))
    rng = random.Random(0)
    requests = [film(["worker"], 1, number, store, rng) for number in range(4)]
    asked = [{"storage": store.url, "request": request.model_dump(mode="json")} for request in requests]
    elsewhere = [{"storage": reference.url, "request": requests[0].model_dump(mode="json")}]
    same, other, damaged, _missing = requests
    for request in requests:
        _make(reference, request)
    _make(store, same)
    _make(store, other, latents=b"others")
    _make(store, damaged)
    store.write(store.place("film", damaged.film(damaged.plan).key, "film.mp4"), b"fil")
    assert count(asked + elsewhere, store.url, reference.url) == {"films": 4, "lost": 2, "identical": 1}


# runs


def _chaos(*arguments: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.chaos", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def _assert_nothing_lost(found: dict, kills: int, films: int) -> None:
    assert found["kills"] == sum(found["by_kind"].values()) == kills
    assert found["films"] == found["identical"] >= films
    assert found["lost"] == found["left_over_processes"] == 0


@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_five_kills() -> None:
    """One of each kind that is quick, several in a film; 50 kills have all of them (until a head that is gone is given
    up, and for a planner, it takes a minute or more)."""
    kinds = ",".join(kind for kind in KINDS if kind not in (*OF_THEIR_OWN, "all"))
    _assert_nothing_lost(_chaos("--kills", "5", "--seed", "7", "--kinds", kinds, "--per-film", "4"), 5, 2)


@pytest.mark.long
@pytest.mark.cluster
@pytest.mark.timeout(7200)
def test_fifty_kills() -> None:
    _assert_nothing_lost(_chaos("--kills", "50", "--seed", "0", "--per-film", "3"), 50, 20)
