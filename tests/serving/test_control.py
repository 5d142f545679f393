"""`dreamrunner cancel`, `pause`, `resume`, `prioritize`, where no studio runs: its next one finds what was said."""

from __future__ import annotations

import pytest

from cluster.films import FilmRequest
from cluster.journal import Asked, Journal
from cluster.store import Store
from engine.plan import Plan, Scene
from engine.settings import ExecutionPlan, RenderSettings
from serving.cli import main


@pytest.fixture
def journal(tmp_path) -> Journal:
    """Of a storage in which two films wait for a studio."""
    journal = Journal(Store(str(tmp_path)))
    for n, title in enumerate(("The fox", "The owl")):
        request = FilmRequest(
            plan=Plan(title=title, scenes=(Scene(id="one", background="snow"),)), seed=n, model="m", fingerprint="f",
            settings=RenderSettings(num_inference_steps=5, guidance_scale=4),
            execution=ExecutionPlan(device="cpu", dtype="float32", threads=1),
        )  # fmt: skip
        journal.ask(Asked(request=request, workers=1, time=float(n)))
    return journal


def _say(journal: Journal, *words: str) -> int:
    return main([words[0], "--storage", journal.store.url, *words[1:]])


def test_a_film_is_cancelled_by_its_title(journal) -> None:
    assert _say(journal, "cancel", "The fox") == 0
    assert [asked.request.plan.title for asked in journal.open_films()] == ["The owl"]


def test_a_film_is_paused_resumed_and_prioritized_by_its_key(journal) -> None:
    key = journal.open_films()[1].request.key
    for words, expected in ((("pause", key[:8]), (True, 0)), (("prioritize", key, "3"), (True, 3)),
                            (("resume", key), (False, 3))):  # fmt: skip
        assert _say(journal, *words) == 0
        asked = journal.open_films()[1]
        assert (asked.paused, asked.priority) == expected
    assert journal.open_films()[0].priority == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cancel", "nobody"), "nobody: no such film is under way"),
        (("pause", ""), "The owl"),
        (("prioritize", "The fox", "high"), "a valid integer"),
    ],
)
def test_bad_input_is_refused(journal, capsys, words, message) -> None:
    assert _say(journal, *words) == 2
    assert message in capsys.readouterr().err
    assert len(journal.open_films()) == 2


def test_a_title_of_two_films_is_not_enough(journal, capsys) -> None:
    asked = journal.open_films()[0]
    journal.ask(Asked(request=FilmRequest.model_validate({**asked.request.model_dump(), "seed": 9}), workers=1, time=5))
    assert _say(journal, "cancel", "The fox") == 2
    assert "2 films under way are called so" in capsys.readouterr().err
