"""The score against a story's hand-written truth, on clips whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.films import told_films
from engine.errors import InputError
from engine.miniature.motions import make_track
from engine.miniature.truth import Truth, load_truth, score_film
from engine.miniature.world import make_clip
from engine.models import load_bundle
from engine.planner_prompts import check_cast
from engine.story import load_story
from tests.conftest import ROOT


def _clip(stage: str, name: str, motion: str) -> np.ndarray:
    track = make_track(motion, np.random.default_rng(4), 32, (0.0, 112.0))
    return make_clip(stage, [(name, 32, [(motion, 0, 24)], track)]).frames


def _truth(*scenes: tuple[str, str, str]) -> Truth:
    return Truth.model_validate(
        {"scenes": [{"stage": s, "characters": {name: {"motion": motion}}} for s, name, motion in scenes]}
    )


def test_a_true_film_scores_one_and_a_wrong_one_less() -> None:
    told = (("forest", "fox", "walks right"), ("night", "ghost", "flies up"))
    film = np.concatenate([_clip(*scene) for scene in told])
    assert score_film(film, _truth(*told)).score == 1
    wrong = score_film(film, _truth(("forest", "fox", "walks left"), ("snow", "owl", "flies up")))
    assert wrong.scenes[0].claims == [True, True, False]
    assert wrong.scenes[1].claims == [False, False, False]
    assert wrong.scenes[1].strangers == ["ghost"]
    assert wrong.score == pytest.approx(2 / 6)


def test_a_scene_that_the_film_lacks_counts() -> None:
    told = (("forest", "fox", "walks right"), ("night", "ghost", "flies up"))
    score = score_film(_clip(*told[0]), _truth(*told))
    assert score.scenes_in_film == 1
    assert score.score == 0.5


def test_the_examples_truth_names_only_what_is_there(tmp_path) -> None:
    truth = load_truth(ROOT / "examples" / "the-fox-and-the-robot.truth.yaml")
    assert 5 <= len(truth.scenes) <= 6
    (tmp_path / "t.yaml").write_text("scenes:\n- stage: office\n")
    with pytest.raises(InputError, match=r"scenes\.0\.stage: .*'office' is not in this world"):
        load_truth(tmp_path / "t.yaml")


@pytest.mark.parametrize("file", told_films(), ids=lambda file: file.stem)
def test_the_examples_have_a_truth_for_each_scene_of_their_story(file: Path) -> None:
    story, images = load_story(file)
    assert len(load_truth(file.with_suffix(".truth.yaml")).scenes) == len(story.text.strip().split("\n\n"))
    assert len(images) == len(story.characters)
    check_cast(story.text, list(story.characters), load_bundle("miniature"))
