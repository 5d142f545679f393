"""The journal says after any death what it was told before."""

from __future__ import annotations

import hashlib
import json
import time

import pytest

from cluster.films import FilmRequest
from cluster.journal import DONE, FILMS, Asked, Journal
from cluster.store import Store
from engine.errors import InputError
from engine.plan import Plan, Scene
from engine.settings import ExecutionPlan, RenderSettings


@pytest.fixture(params=["local", "s3"])
def journal(request, tmp_path) -> Journal:
    return Journal(Store(request.getfixturevalue("s3_url") if request.param == "s3" else str(tmp_path / "store")))


def _asked(seed: int = 0, **changes) -> Asked:
    request = FilmRequest(
        plan=Plan(scenes=(Scene(id="one", background="a forest"), Scene(id="two", background="a beach"))), seed=seed,
        settings=RenderSettings(num_inference_steps=5, guidance_scale=4), model="miniature", fingerprint="f",
        execution=ExecutionPlan(device="cpu", dtype="float32", threads=1, guidance_degree=2),
    )  # fmt: skip
    return Asked(**{"request": request, "workers": 2, "time": time.time(), **changes})


def _again(journal: Journal) -> Journal:
    """What another process sees."""
    journal.flush()
    return Journal(Store(journal.store.url))


def test_what_was_asked_for_comes_back_in_order(journal: Journal) -> None:
    first, second = _asked(1, time=10.0), _asked(2, time=20.0)
    journal.ask(second)
    journal.ask(first)
    assert _again(journal).open_films() == [first, second]


def test_asking_again_changes_what_holds_but_not_the_order(journal: Journal) -> None:
    first, second = _asked(1, time=10.0), _asked(2, time=20.0)
    for asked in (first, second, _asked(1, time=30.0, workers=4, priority=5)):
        journal.ask(asked)
    films = _again(journal).open_films()
    assert [(film.request.seed, film.workers, film.priority) for film in films] == [(1, 4, 5), (2, 2, 0)]
    assert films[0].request.execution == first.request.execution
    journal.forget(first.request.key)
    assert _again(journal).open_films() == [second]


def test_attempts_are_spans(journal: Journal) -> None:
    one, two = _asked().request.film(_asked().request.plan).scenes
    lost, failed = journal.started(one, ("w1", "w2")), journal.started(two, ("w3", "w4"))
    journal.ended(failed, "out of memory")
    done = journal.started(one, ("w3", "w1"))
    journal.ended(done)
    spans = _again(journal).spans([one.result, two.result])
    assert [(s.label, s.worker, s.outcome, s.error) for s in spans] == [
        ("one", ("w1", "w2"), None, None), ("two", ("w3", "w4"), "failed", "out of memory"),
        ("one", ("w3", "w1"), "finished", None),
    ]  # fmt: skip
    assert spans[0].start == lost.start and spans[0].end is None
    assert spans[1].start <= spans[1].end <= spans[2].start <= spans[2].end


def test_a_whole_film_is_one_object(journal: Journal) -> None:
    asked = _asked(priority=3)
    film = asked.request.film(asked.request.plan)
    journal.ask(asked)
    for job in film.scenes:
        journal.ended(journal.started(job, ("w",)))
    journal.finish(asked.request.key, film.key, film.jobs)
    assert _again(journal).open_films() == []
    done = _again(journal).done_film(asked.request.key)
    assert [span.label for span in done.spans] == ["one", "two"]
    assert (done.asked, done.workers, done.priority, done.film) == (asked.time, 2, 3, film.key)
    assert journal.store.list(DONE) == [f"{asked.request.key}.json"]
    assert _again(journal).done_film("unknown") is None


def test_no_object_is_written_twice(journal: Journal, monkeypatch) -> None:
    """S3 has no append, and a second write of the same object could lose the first."""
    seen: list[str] = []
    write = Store.write_new
    monkeypatch.setattr(Store, "write_new", lambda store, name, *what: seen.append(name) or write(store, name, *what))
    for _ in range(3):
        journal.ask(_asked())
        journal.ended(journal.started(_asked().request.film(_asked().request.plan).scenes[0]))
    journal.flush()
    assert len(seen) == len(set(seen)) == 9


def _only(store: Store, folder: str) -> str:
    (name,) = store.sizes(folder)
    return name


def test_a_damaged_entry_counts_as_never_written(tmp_path) -> None:
    journal = Journal(Store(str(tmp_path)))
    journal.ask(_asked(1))
    name = _only(journal.store, FILMS)
    data = journal.store.read(name)
    journal.ask(_asked(2))
    for broken in (data[:-9], data[:70] + bytes([data[70] ^ 1]) + data[71:], b""):
        journal.store.write(name, broken)
        assert [film.request.seed for film in journal.open_films()] == [2]


def test_a_newer_entry_is_refused_by_name(tmp_path) -> None:
    journal = Journal(Store(str(tmp_path)))
    journal.ask(_asked())
    name = _only(journal.store, FILMS)
    values = {**json.loads(journal.store.read(name).partition(b"\n")[2]), "version": 7}
    text = json.dumps(values).encode()
    journal.store.write(name, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    with pytest.raises(InputError, match=rf"{name} was written by a newer version .record version 7"):
        journal.open_films()


def test_an_entry_of_this_version_stays_readable(tmp_path) -> None:
    """What version 1 wrote, word for word. If this fails the shape changed: give new fields defaults."""
    journal = Journal(Store(str(tmp_path)))
    request = (
        '{"plan":{"scenes":[{"id":"one","background":"a forest"}]},"seed":0,"settings":{"num_inference_steps":5,'
        '"guidance_scale":4},"execution":{"device":"cpu","dtype":"float32","threads":1},"model":"m","fingerprint":"f"}'
    )
    text = f'{{"version":1,"request":{request},"workers":2,"time":5.0,"priority":1}}'.encode()
    journal.store.write(f"{FILMS}/k-1-a.json", hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    (film,) = journal.open_films()
    assert (film.workers, film.priority, film.request.settings.num_inference_steps) == (2, 1, 5)
