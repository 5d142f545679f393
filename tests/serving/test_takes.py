"""`dreamrunner render --take` and `--preview`: another take of one scene alone, and a film of few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import InputError
from serving.render import Options, order_films, parse_takes
from tests.conftest import ROOT

PLAN = ROOT / "examples" / "the-fox-and-the-robot.plan.yaml"


def _order(tmp_path: Path, *takes: str, file: Path = PLAN, **options):
    return order_films([file], Options(storage=str(tmp_path / "store"), out=tmp_path / "films", takes=takes, **options))


def test_another_take_is_another_film_with_the_other_scenes(tmp_path) -> None:
    (first,), (second,) = (_order(tmp_path, *takes).films for takes in ((), ("a-walk=2",)))
    one, other = (film.request.film(film.request.plan) for film in (first, second))
    changed = [a.label for a, b in zip(one.scenes, other.scenes, strict=True) if a.key != b.key]
    assert changed == ["a-walk"] and one.key != other.key
    assert second.folder == first.folder.with_name(f"{first.folder.name}.a-walk-2")


@pytest.mark.parametrize("take", ["a-walk", "=2", "a-walk=0", "a-walk=two"])
def test_a_take_that_cannot_be_read_is_refused(take: str) -> None:
    with pytest.raises(InputError, match="say SCENE=N"):
        parse_takes([take])


def test_a_take_of_a_scene_that_is_not_there_is_refused_before_any_work(tmp_path) -> None:
    with pytest.raises(InputError, match="--take nowhere: the film has no such scene; it has a-walk, "):
        _order(tmp_path, "nowhere=2")


def test_given_and_automatic_degrees_exclude_each_other(tmp_path) -> None:
    with pytest.raises(InputError, match="--automatic-parallel"):
        order_films([PLAN], Options(storage=str(tmp_path), automatic=True, guidance_degree=2, workers=2))


@pytest.mark.parametrize("file", [PLAN, PLAN.with_name("the-fox-and-the-robot.txt")])
def test_a_preview_has_few_steps_the_same_plan_and_its_own_folder(file: Path, tmp_path) -> None:
    (preview,), (film,) = (_order(tmp_path, file=file, preview=preview).films for preview in (True, False))
    assert preview.request.settings.num_inference_steps * 4 <= film.request.settings.num_inference_steps
    assert preview.folder == film.folder.with_name(f"{film.folder.name}.preview")
    assert preview.request.key != film.request.key
    one, other = preview.request.plan_job, film.request.plan_job
    assert (one and one.key) == (other and other.key)


def test_a_preview_chooses_its_steps_itself(tmp_path) -> None:
    with pytest.raises(InputError, match="leave --steps 10 or --preview away"):
        _order(tmp_path, preview=True, steps=10)
