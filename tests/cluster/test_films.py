"""What decides a result's name."""

from __future__ import annotations

import pytest

from cluster.films import Film, FilmRequest, story_characters
from engine.errors import InputError
from engine.plan import Plan, Region, Scene
from engine.settings import ExecutionPlan, RenderSettings
from engine.story import Story

ONE, TWO = Scene(id="one", background="a forest"), Scene(id="two", background="a beach")


def _request(*scenes: Scene, **changes) -> FilmRequest:
    values = {
        "plan": Plan(scenes=scenes or (ONE, TWO)), "seed": 3,
        "settings": RenderSettings(num_inference_steps=5, guidance_scale=4),
        "execution": ExecutionPlan(device="cpu", dtype="float32", threads=1), "model": "miniature", "fingerprint": "f",
    }  # fmt: skip
    return FilmRequest(**{**values, **changes})


def _film(*scenes: Scene, **changes) -> Film:
    request = _request(*scenes, **changes)
    return request.film(request.plan)


def test_a_changed_scene_changes_its_key_alone() -> None:
    before, after = _film(), _film(ONE, Scene(id="two", background="a desert"))
    assert before.scenes[0].key == after.scenes[0].key
    assert before.scenes[1].key != after.scenes[1].key
    assert before.key != after.key


def test_the_order_is_the_films_not_the_scenes() -> None:
    assert {j.key for j in _film().scenes} == {j.key for j in _film(TWO, ONE).scenes}
    assert _film().key != _film(TWO, ONE).key


def test_narration_and_the_models_folder_are_no_inputs_of_a_scene() -> None:
    told = _film(ONE.model_copy(update={"narration": "Once upon a time"}), TWO)
    assert [j.key for j in told.scenes] == [j.key for j in _film().scenes]
    assert told.key != _film().key  # it is in the film's subtitles
    assert _film(model="elsewhere").key == _film().key
    assert _request(model="elsewhere").key == _request().key


def test_everything_else_is() -> None:
    changes = [
        {"seed": 4}, {"fingerprint": "g"}, {"settings": RenderSettings(num_inference_steps=6, guidance_scale=4)},
        {"execution": ExecutionPlan(device="cpu", dtype="float32", threads=2)},
    ]  # fmt: skip
    keys = {_film(**change).key for change in changes} | {_film().key}
    assert len(keys) == 5


def test_golden_keys() -> None:
    """They name results in people's storages. If this fails a key's recipe changed: then raise the kind's REVISION."""
    assert _film().scenes[0].key == "67ea562a096d171e78fb2803400cf1d2c523d42a"
    assert _film().key == "3356d886892562bcf7e3aea586de7cad9c96b886"


LEAP = Region(entity="fox", motion="spins around", caption="a fox spins around", boxes={"1-6": [0, 0, 1, 1]})
GHOST = Region(entity="ghost", motion="flies up", caption="a [v1] ghost flies up", boxes={"1-6": [0, 0, 1, 1]})
STORY = Story(title="t", text="A fox spins. A ghost flies up.", characters={"ghost": ("0" * 64,)})


def _told(**changes) -> tuple[FilmRequest, Plan]:
    plan = Plan(
        scenes=(
            ONE.model_copy(update={"regions": (LEAP,)}), TWO.model_copy(update={"regions": (GHOST,)}),
            TWO.model_copy(update={"id": "three"}),
        ),
        characters=story_characters(STORY),
    )  # fmt: skip
    return _request(plan=None, story=STORY, known_motions=("flies up",), library="l", **changes), plan


def test_a_film_is_a_graph() -> None:
    """Motions that the model does not know need clips and a prior, given characters a prior; scenes wait for theirs."""
    request, plan = _told()
    film = request.film(plan)
    assert [(j.kind, j.label) for j in film.jobs] == [
        ("clips", "spins around"), ("prior", "spins around"), ("prior", "ghost"),
        ("scene", "one"), ("scene", "two"), ("scene", "three"),
    ]  # fmt: skip
    (clips,), (motion, subject), (one, two, three) = film.clips, film.priors, film.scenes
    assert motion.needs == (clips.result,) and subject.needs == ()
    assert one.needs == (motion.result,) and two.needs == (subject.result,) and three.needs == ()
    assert subject.images == ("0" * 64,) and subject.phrase == "[v1] ghost"


def test_one_prior_serves_every_film() -> None:
    """It does not depend on the scene, the plan, the film's degrees of parallelism, or the denoising steps."""
    request, plan = _told()
    other, _ = _told(
        settings=RenderSettings(num_inference_steps=9, guidance_scale=4),
        execution=ExecutionPlan(device="cpu", dtype="float32", threads=1, guidance_degree=2),
    )
    shorter = plan.model_copy(update={"scenes": plan.scenes[:1]})
    assert other.film(shorter).priors[0].key == request.film(plan).priors[0].key
    another = request.model_copy(update={"seed": request.seed + 1}).film(plan)
    assert [prior.key for prior in another.priors] == [prior.key for prior in request.film(plan).priors]
    assert another.scenes[0].key != request.film(plan).scenes[0].key
    assert other.film(shorter).scenes[0].key != request.film(plan).scenes[0].key
    assert other.film(shorter).scenes[0].workers == 2


def test_a_library_that_grew_asks_again() -> None:
    (before, plan), (after, _) = _told(), _told(library_version="2")
    assert before.film(plan).priors[0].key != after.film(plan).priors[0].key
    assert before.film(plan).priors[1].key == after.film(plan).priors[1].key


def test_without_priors_nothing_is_learned() -> None:
    request, plan = _told(learn=False)
    assert {job.kind for job in request.film(plan).jobs} == {"scene"}


def test_a_request_is_a_story_or_a_plan() -> None:
    with pytest.raises(ValueError, match="one of both"):
        _request(story=STORY)


def test_another_take_changes_its_scene_alone() -> None:
    first, second, third = (_film(takes=takes) for takes in ({}, {"two": 2}, {"two": 3}))
    assert _request(takes={}).key == _request().key != _request(takes={"two": 2}).key
    assert first.scenes[0].key == second.scenes[0].key == third.scenes[0].key
    assert len({film.scenes[1].key for film in (first, second, third)}) == 3
    assert _film(takes={"two": 1}).key == first.key != second.key
    with pytest.raises(InputError, match="--take five: the film has no such scene; it has one, two"):
        _film(takes={"five": 2})


def test_degrees_that_the_studio_chooses_name_no_other_result() -> None:
    """Until a scene is split its key is that of a scene for one worker."""
    automatic, given = _film(automatic=True), _film()
    assert [job.key for job in automatic.scenes] == [job.key for job in given.scenes]
    run = ExecutionPlan(device="cpu", dtype="float32", threads=1, guidance_degree=2)
    split = automatic.scenes[0].settled(run)
    assert split.key == _film(execution=run).scenes[0].key and split.slot == given.scenes[0].key
    with pytest.raises(ValueError, match="one of both"):
        _film(automatic=True, execution=run)
