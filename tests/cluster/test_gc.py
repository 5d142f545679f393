"""What no film needs goes; what one needs stays, whatever else lies in the storage."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.delivery import Delivery
from cluster.films import FilmRequest, Job, keep_image, settled_film, settled_scene
from cluster.gc import clear, survey
from cluster.journal import Asked, Journal
from cluster.lease import Lease, holder
from cluster.store import Store
from engine.errors import InputError
from engine.plan import Character, Plan, Region, Scene, dump_plan
from engine.settings import ExecutionPlan, RenderSettings
from engine.story import Story
from serving.cli import main

IMAGE = b"a picture"
SHA = hashlib.sha256(IMAGE).hexdigest()


def _plan(number: int) -> Plan:
    """Scenes, motions and a character that films share in part."""
    fox = Region(entity="fox", motion=f"motion {number % 3}", caption="a fox", boxes={"1-6": [0, 0, 1, 1]})
    ghost = Region(entity="ghost", motion="none", caption="a [v1] ghost", boxes={"1-6": [0, 0, 1, 1]})
    scenes = (
        Scene(id="shared", background="a forest", regions=(fox,)),
        Scene(id="own", background=f"place {number}", regions=(ghost,) if number % 2 else ()),
    )
    characters = {"ghost": Character(phrase="[v1] ghost", images=(SHA,))} if number % 2 else {}
    return Plan(title=f"film {number}", scenes=scenes, characters=characters)


def _request(number: int) -> FilmRequest:
    """Every third is asked for by its story."""
    told = {"story": Story(title=f"film {number}", text="A fox.", characters={"ghost": (SHA,)} if number % 2 else {})}
    return FilmRequest(
        **(told if number % 3 == 2 else {"plan": _plan(number)}), seed=number // 4, library="l", model="m",
        settings=RenderSettings(num_inference_steps=5, guidance_scale=4), fingerprint="f",
        execution=ExecutionPlan(device="cpu", dtype="float32", threads=1), automatic=number % 2 == 0,
    )  # fmt: skip


def _make(store: Store, request: FilmRequest, jobs: int | None = None) -> None:
    """As a studio does: the plan, then each job's result, then the film; `jobs` says after how many it was killed."""
    journal = Journal(store)
    keep_image(store, IMAGE)
    journal.ask(Asked(request=request, workers=1, time=1.0))
    if request.plan_job:
        if jobs == 0:
            return
        text = dump_plan(_plan(int(request.story.title.split()[1]))).encode()
        store.put("plan", request.plan_job.key, {"plan.yaml": text, "answers.json": b"[]"}, {})
    film = request.film(request.stored_plan(store))
    chosen = request.execution.model_copy(update={"guidance_degree": 2})  # as a studio chooses where it may
    film = replace(film, scenes=tuple(settled_scene(job, store, chosen) for job in film.scenes))
    for n, job in enumerate(film.jobs):
        event = journal.started(job)
        Delivery(store, None, job).saves().save(f"half of {job.label}".encode())
        if n == jobs:
            journal.flush()
            return
        if store.record(*job.result) is None:
            Delivery(store, None, job).put(_files(job), {"of": job.label})
        journal.ended(event)
    notes = {"scenes": [job.key for job in film.scenes], "needs": [job.result for job in film.jobs]}
    store.put("film", film.key, {"film.mp4": b"film", "request.json": request.model_dump_json().encode()}, notes)
    journal.finish(request.key, film.key, film.jobs)


def _files(job: Job) -> dict[str, bytes]:
    return {"one": job.key.encode(), "two": job.label.encode() * 100}


def _strew(store: Store) -> None:
    """What dies leave behind, and what nobody knows."""
    store.write(f"results/scene/{uuid.uuid4().hex}/0123456789abcdef-clip.mp4", b"without a record")
    store.put("scene", uuid.uuid4().hex, {"clip.mp4": b"of no film"}, {})
    store.put("clips", uuid.uuid4().hex, {"retrieval.json": b"of no film"}, {})
    store.put("prior", "of-no-film", {"prior.safetensors": b"dear"}, {})
    store.write(f"unfinished/scene/{uuid.uuid4().hex}", b"of no film")
    store.write(f"results/scene/k/.clip.mp4.{uuid.uuid4().hex}", b"killed on the way")
    store.write(f"inputs/{'1' * 64}", b"of no film")
    store.write(f"executions/{'2' * 40}.json", b"of no film")
    store.write("library/miniature/clips.lance/data/1.lance", b"clips")
    store.write("notes/my own.txt", b"mine")
    store.write("results/scene/readme.txt", b"mine, too")


def _assert_whole(store: Store, request: FilmRequest) -> None:
    film = request.finished(store)
    assert film is not None
    for job in (*film.jobs, *((request.plan_job,) if request.plan_job else ())):
        for name in store.record(*job.result)["files"]:
            assert store.get(*job.result, name)
    assert store.get("film", film.key, "film.mp4") == b"film"
    for character in film.plan.characters.values():
        assert all(store.read(f"inputs/{image}") == IMAGE for image in character.images)
    assert Journal(store).done_film(request.key).film == film.key


films = st.lists(st.tuples(st.integers(0, 11), st.sampled_from([None, None, 0, 1, 2, 3])), max_size=5)


@given(films, st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_every_kept_film_is_whole_and_open_ones_go_on(films, priors, strewn) -> None:
    store, asked = Store(f"memory://gc-{uuid.uuid4().hex}"), {}
    for number, jobs in films:
        if number not in asked:
            asked[number] = jobs
            _make(store, _request(number), jobs)
    if strewn:
        _strew(store)
    journal = Journal(store)
    before, open_films = store.sizes(), journal.open_films()
    spans = {film.request.key: journal.spans(_known(store, film.request)) for film in open_films}
    listed = survey(store, priors=priors)
    assert store.sizes() == before  # looking changes nothing

    cleared = clear(store, priors=priors)
    assert set(cleared.unneeded) == set(listed.unneeded) | {n for n in cleared.unneeded if n.startswith("lease/")}
    for number in {n for n, jobs in asked.items() if jobs is None or _request(n).finished(store)}:
        if asked[number] is None:
            _assert_whole(store, _request(number))
    assert journal.open_films() == open_films
    for film in open_films:
        assert journal.spans(_known(store, film.request)) == spans[film.request.key]
    left = store.sizes()
    saved = {n for n in before if n.startswith("unfinished/")}
    needed = {f"unfinished/{kind}/{key}" for film in open_films for kind, key in _known(store, film.request)}
    assert {n for n in left if n.startswith("unfinished/")} == saved & needed
    if strewn:
        assert store.read("notes/my own.txt") == b"mine" and store.read("results/scene/readme.txt") == b"mine, too"
        assert (store.record("prior", "of-no-film") is None) == priors
        assert "library/miniature/clips.lance/data/1.lance" in left
    assert survey(store, priors=priors).unneeded == {}
    assert holder(store) is None


def _known(store: Store, request: FilmRequest) -> list[tuple[str, str]]:
    plan = request.stored_plan(store)
    jobs = settled_film(request.film(plan), store).jobs if plan else ()
    return [job.result for job in (*jobs, *((request.plan_job,) if request.plan_job else ()))]


def test_a_forgotten_film_goes_with_what_only_it_needs(tmp_path) -> None:
    store = Store(str(tmp_path))
    kept, gone = _request(0), _request(3)  # of the same motion: they share a scene and a prior
    for request in (kept, gone):
        _make(store, request)
    (prior,), own = kept.film(kept.plan).priors, settled_film(gone.film(gone.plan), store).scenes[1]
    found = clear(store, forget=[gone.key[:10]])
    assert {film.title for film in found.films} == {"film 0"}
    _assert_whole(store, kept)
    assert store.record(*prior.result) and store.record(*own.result) is None and gone.finished(store) is None
    with pytest.raises(InputError, match="--forget 0000000: no such film"):
        survey(store, forget=["0000000"])


def test_films_asked_for_over_http_stay(tmp_path) -> None:
    """Also one whose asker closed its server before it was finished."""
    store, request = Store(str(tmp_path)), _request(2)
    _make(store, request, 2)
    Journal(store).forget(request.key)
    store.write("requests/video_1.json", json.dumps({"request": request.model_dump(mode="json")}).encode())
    clear(store)
    plan = request.stored_plan(store)
    jobs = settled_film(request.film(plan), store).jobs
    assert [store.record(*job.result) is not None for job in jobs] == [True, True, False, False]
    clear(store, forget=[request.key])
    assert store.read("requests/video_1.json") is None and request.stored_plan(store) is None


def test_a_storage_in_use_is_not_cleared(tmp_path) -> None:
    store = Store(str(tmp_path))
    _strew(store)
    before = store.sizes()
    studio = Lease(store, "studio")
    studio.acquire()
    with pytest.raises(InputError, match="in use by another studio"):
        clear(store)
    studio.release()
    assert before.keys() <= store.sizes().keys()


def test_the_command_lists_first_and_clears_when_told(tmp_path, capsys) -> None:
    store = Store(str(tmp_path))
    _make(store, _request(1))
    _strew(store)
    command = ["gc", "--storage", str(tmp_path)]
    assert main(command) == 0
    listed = capsys.readouterr().out
    assert "film 1" in listed and "scene results of no film" in listed and "--yes clears" in listed
    assert "reference images of no film" in listed
    assert store.read(f"inputs/{'1' * 64}") is not None
    assert main([*command, "--yes"]) == 0
    assert "Cleared" in capsys.readouterr().out
    assert not (tmp_path / "unfinished").exists()  # no empty folders are left
    _assert_whole(store, _request(1))
    assert main(command) == 0
    assert "is needed" in capsys.readouterr().out


def test_it_clears_s3_too(s3_url) -> None:
    store = Store(s3_url)
    _make(store, _request(1))
    _strew(store)
    assert clear(store).unneeded
    _assert_whole(store, _request(1))
    assert survey(store).unneeded == {}
