"""The stories written one by one that the miniature's planner is trained on."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks.planner import SENTENCES, read_told
from engine.errors import InputError
from engine.miniature import words
from engine.miniature.grammar import scene_answer
from engine.miniature.told import recast, told_stories, told_story
from engine.miniature.train_planner import mean_of
from engine.models import load_bundle
from engine.planner_answers import SceneAnswer, make_scene
from engine.planner_outline import StoryAnswer, check_outline, named_of, place_named
from engine.planner_prompts import split_sentences

MINIATURE = load_bundle("miniature")


def test_they_say_every_motion_place_and_character_often() -> None:
    scenes = [scene for story in told_stories() for scene in story.scenes]
    acts = [act for scene in scenes for sentence in scene.sentences for act in sentence.acts]
    motions, names = Counter(motion for _, motion in acts), Counter(name for name, _ in acts)
    assert set(motions) == set(words.MOTIONS) and min(motions.values()) >= 60
    assert set(names) == set(words.BASE_CHARACTERS) and min(names.values()) >= 60
    places = Counter(scene.place for scene in scenes)
    assert set(places) == set(words.STAGES) and min(places.values()) >= 60


def test_each_is_told_and_planned_as_the_planner_would() -> None:
    for seed in range(300):
        made = told_story(random.Random(seed))
        assert split_sentences(" ".join(made.sentences)) == made.sentences
        scenes = StoryAnswer.model_validate(made.answer()).scenes
        assert check_outline(scenes, made.sentences, None) == scenes
        said = ""
        for small in made.scenes:
            said += f" {small.narration}"
            answer = SceneAnswer.model_validate(scene_answer(small))
            scene = make_scene(answer, "s", small.stage, small.narration, MINIATURE, made.characters)
            assert [(r.entity, r.motion) for r in scene.regions] == [(a.name, a.motion) for a in small.acts]
            assert all(named_of([act.name], said) for act in small.acts)


def test_a_place_named_by_what_is_found_there_is_the_place() -> None:
    told = [
        (s.text, scene.place) for story in told_stories() for scene in story.scenes for s in scene.sentences if s.acts
    ]
    assert MINIATURE.words
    alone = MINIATURE.words.model_copy(update={"landmarks": {}})
    named = [(place, of) for text, of in told if (place := place_named([text], MINIATURE.words))]
    assert len(named) > 2 * sum(place_named([text], alone) is not None for text, _ in told)
    assert sum(place != of for place, of in named) <= 0.01 * len(named)


def test_others_play_the_same_parts() -> None:
    assert (
        recast("An owl, a big owl and the OWL's fox: Owl!", {"owl": "pig"})
        == "A pig, a big pig and the PIG's fox: Pig!"
    )
    assert recast("A fox saw a robot.", {"fox": "owl", "robot": "fox"}) == "An owl saw a fox."
    rng = random.Random(0)
    drawn = [told_story(rng) for _ in range(200)]
    assert 10 <= sum(bool(story.characters) for story in drawn) <= 50
    assert all(name in " ".join(story.sentences).lower() for story in drawn for name in story.characters)


@pytest.mark.parametrize("file", sorted(SENTENCES.parent.glob("planner-*.jsonl")), ids=lambda file: file.stem)
def test_no_sentence_of_the_benchmarks_that_names_somebody_is_among_them(file: Path) -> None:
    learned = {s.text.lower() for story in told_stories() for scene in story.scenes for s in scene.sentences}
    cast = list(words.BASE_CHARACTERS)
    asked = {s.lower() for told in read_told(file) for s in split_sentences(told.story) if named_of(cast, s)}
    assert learned & asked == set()


def test_the_mean_of_two_adapters_is_between_them() -> None:
    one = {"a": torch.tensor([1.0, 2.0], dtype=torch.bfloat16), "b": torch.zeros(2, 2)}
    other = {"a": torch.tensor([3.0, 2.0], dtype=torch.bfloat16), "b": torch.ones(2, 2)}
    mean = mean_of(one, other)
    assert mean["a"].tolist() == [2.0, 2.0] and mean["b"].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    with pytest.raises(InputError, match="not an adapter of this training"):
        mean_of(one, {"a": one["a"]})
