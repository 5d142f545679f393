"""What Prometheus reads, and what stands in the log."""

from __future__ import annotations

import json
import logging
import time
import urllib.request

import pytest
import ray

from cluster.board import Board
from cluster.journal import Journal
from cluster.store import Store
from cluster.telemetry import Telemetry, log, log_as_json
from tests.conftest import small_request


@ray.remote(num_cpus=0)
class Teller:
    """Has something to tell, in a process of its own as the studio has."""

    def tell(self, storage: str) -> bool:
        request, store = small_request(), Store(storage)
        scene = request.film(request.plan).scenes[0]
        self.telemetry = Telemetry()
        self.telemetry.started(scene, ["film"], ["w1", "w2"])
        self.telemetry.step(scene, 3)
        self.telemetry.step(scene, 3)
        self.telemetry.ended(scene, ["film"], ["w1", "w2"], 1.5)
        self.telemetry.state(Board(store, Journal(store)), 4)
        return True


@pytest.mark.cluster
def test_prometheus_reads_the_studios_metrics(ray_of_two, tmp_path) -> None:
    teller = Teller.remote()
    assert ray.get(teller.tell.remote(str(tmp_path)))
    port = ray.nodes()[0]["MetricsExportPort"]
    wanted = {
        'ray_dreamrunner_steps_total{kind="scene"': 3.0,
        'ray_dreamrunner_worker_seconds_total{kind="scene"': 3.0,
        'ray_dreamrunner_workers{state="idle"': 4.0,
    }
    deadline, seen = time.monotonic() + 60, dict[str, float]()
    while seen != wanted and time.monotonic() < deadline:
        time.sleep(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = [line.replace(", ", ",") for line in answer.read().decode().splitlines()]
        seen = {name: value for name, value in wanted.items() if value in _values(lines, name)}
    ray.kill(teller)
    assert seen == wanted


def _values(lines: list[str], name: str) -> set[float]:
    """Of the metric's lines that have this name and this label among their others: other studios were here, too."""
    metric, label = name.split("{")
    return {float(line.split()[-1]) for line in lines if line.startswith(metric + "{") and label in line}


def test_each_line_is_json_and_names_film_scene_and_job(monkeypatch, capsys) -> None:
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)
    log_as_json()
    try:
        log.warning("failed", extra={"films": ["f"], "scene": "a-walk", "job": "k", "error": "its worker died"})
    finally:
        log.setLevel(logging.NOTSET)
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert told.pop("timestamp")
    assert told == {
        "level": "WARNING", "event": "failed", "films": ["f"], "scene": "a-walk", "job": "k",
        "error": "its worker died",
    }  # fmt: skip
