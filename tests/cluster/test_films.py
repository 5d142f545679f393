"""What decides a result's name."""

from __future__ import annotations

from cluster.films import FilmRequest
from engine.plan import Plan, Scene
from engine.settings import ExecutionPlan, RenderSettings

ONE, TWO = Scene(id="one", background="a forest"), Scene(id="two", background="a beach")


def _film(*scenes: Scene, **changes) -> FilmRequest:
    values = {
        "plan": Plan(scenes=scenes or (ONE, TWO)), "seed": 3,
        "settings": RenderSettings(num_inference_steps=5, guidance_scale=4),
        "execution": ExecutionPlan(device="cpu", dtype="float32", threads=1), "model": "miniature", "fingerprint": "f",
    }  # fmt: skip
    return FilmRequest(**{**values, **changes})


def test_a_changed_scene_changes_its_key_alone() -> None:
    before, after = _film(), _film(ONE, Scene(id="two", background="a desert"))
    assert before.jobs[0].key == after.jobs[0].key
    assert before.jobs[1].key != after.jobs[1].key
    assert before.key != after.key


def test_the_order_is_the_films_not_the_scenes() -> None:
    assert {j.key for j in _film().jobs} == {j.key for j in _film(TWO, ONE).jobs}
    assert _film().key != _film(TWO, ONE).key


def test_narration_and_the_models_folder_are_no_inputs() -> None:
    told = _film(ONE.model_copy(update={"narration": "Once upon a time"}), TWO)
    assert [j.key for j in told.jobs] == [j.key for j in _film().jobs]
    assert _film(model="elsewhere").key == _film().key


def test_everything_else_is() -> None:
    changes = [
        {"seed": 4}, {"fingerprint": "g"}, {"settings": RenderSettings(num_inference_steps=6, guidance_scale=4)},
        {"execution": ExecutionPlan(device="cpu", dtype="float32", threads=2)},
    ]  # fmt: skip
    keys = {_film(**change).key for change in changes} | {_film().key}
    assert len(keys) == 5


def test_golden_keys() -> None:
    """They name results in people's storages. If this fails a key's recipe changed: then raise the kind's REVISION."""
    assert _film().jobs[0].key == "4a6e8d3b724cb04c8c2ed7e38446cde8a933c963"
    assert _film().key == "81f97b0386057e1fa6eae6e5f1e07487f2f35e15"
