"""What is under way, told from the journal alone."""

from __future__ import annotations

import json

from cluster.journal import Asked, Journal
from cluster.store import Store
from serving.cli import main
from tests.conftest import small_request


def test_open_films_and_their_jobs_are_shown(tmp_path, capsys) -> None:
    store, request = Store(str(tmp_path)), small_request()
    journal = Journal(store)
    journal.ask(Asked(request=request, workers=2, time=1.0, priority=3))
    scenes = request.film(request.plan).scenes
    store.put("scene", scenes[0].key, {"clip.mp4": b""}, {})
    journal.started(scenes[1], ["worker-a"])
    lost = journal.started(scenes[2], ["worker-b"])
    journal.ended(lost, "its worker died")
    journal.flush()
    assert main(["status", "--storage", str(tmp_path), "--json"]) == 0
    (film,) = json.loads(capsys.readouterr().out)["films"]
    assert film["jobs"] == {"done": 1, "running": 1, "waiting": 1} and film["priority"] == 3
    assert [span["worker"] for span in film["running"]] == [["worker-a"]]
    assert main(["status", "--storage", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert request.plan.title in told and "worker-a" in told and "worker-b" not in told


def test_nothing_under_way_is_said_so(tmp_path, capsys) -> None:
    assert main(["status", "--storage", str(tmp_path)]) == 0
    assert "No film is under way" in capsys.readouterr().out
