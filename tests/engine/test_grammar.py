"""The stories that the miniature's planner is trained on."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.planner import SENTENCES, read_told
from engine.miniature import words
from engine.miniature.grammar import make_story, scene_answer
from engine.miniature.layout import Act, layout
from engine.miniature.sayings import MOTIONS, PLACES, say_motion, say_place
from engine.models import load_bundle
from engine.plan_rules import MIN_SIDE
from engine.planner_answers import SceneAnswer, make_scene
from engine.planner_outline import StoryAnswer, check_outline, named_of
from engine.planner_prompts import split_sentences

MINIATURE = load_bundle("miniature")
unhurried = settings(deadline=None)  # a busy machine is slow, not wrong


@unhurried
@given(st.integers(0, 10**9), st.integers(1, 8))
def test_the_grammars_answers_are_plans_the_planner_accepts(seed: int, scenes: int) -> None:
    made = make_story(random.Random(seed), scenes)
    assert make_story(random.Random(seed), scenes) == made
    scenes = StoryAnswer.model_validate(made.answer()).scenes
    assert check_outline(scenes, made.sentences, None) == scenes
    assert split_sentences(" ".join(made.sentences)) == made.sentences
    for small in made.scenes:
        answer = SceneAnswer.model_validate(scene_answer(small))
        scene = make_scene(answer, "s", small.stage, small.narration, MINIATURE, made.characters)
        assert [(r.entity, r.motion) for r in scene.regions] == [(a.name, a.motion) for a in small.acts]
        for keyframe in scene.keyframes():
            edges = sorted((box.left, box.right) for _, box in keyframe)
            assert all(right - left >= MIN_SIDE for left, right in edges)
            assert all(a[1] <= b[0] for a, b in pairwise(edges))  # side by side
        for one in scene.regions:
            lefts = [box.left for box in one.boxes.values()]
            assert max((abs(a - b) for a, b in pairwise(lefts)), default=0) <= 0.13


@pytest.mark.parametrize("motion", ["zigzags across", "bounces across", "swoops down"])
def test_a_motion_that_goes_across_has_a_box_for_one_that_goes_along(motion: str) -> None:
    (alone,) = layout([Act("robot", motion)])
    assert alone["to"][0] - alone["from"][0] >= 30
    assert all(right - left < 50 and bottom - top > 85 for left, top, right, bottom in (alone["from"], alone["to"]))
    came, back = layout([Act("robot", "walks right", (1, 3)), Act("robot", motion, (4, 6))])
    assert came["to"][0] == back["from"][0]
    assert (back["to"][0] > back["from"][0]) == (sum(back["from"][::2]) < 100)  # to where there is more room


@unhurried
@given(st.integers(0, 10**9))
def test_who_acts_is_named_or_was_named_before(seed: int) -> None:
    made = make_story(random.Random(seed), 4)
    said = ""
    for small in made.scenes:
        said += small.narration
        assert all(act.name in said for act in small.acts)


def test_the_grammar_says_every_motion_and_place() -> None:
    assert set(MOTIONS) == set(words.MOTIONS)
    assert set(PLACES) == set(words.STAGES)
    rng = random.Random(0)
    said = {motion: {say_motion(rng, motion, "past") for _ in range(2000)} for motion in MOTIONS}
    assert all(len(ways) >= 12 for ways in said.values())
    assert all(len({say_place(rng, place) for _ in range(500)}) >= 15 for place in PLACES)
    every = [way for ways in said.values() for way in ways]
    assert len(set(every)) == len(every)  # no way to say two motions
    assert not any("/" in way for way in every)


def test_no_sentence_of_the_benchmark_comes_from_the_grammar() -> None:
    files = sorted(SENTENCES.parent.glob("planner-*.jsonl"))
    assert len(files) >= 3
    known = {sentence for file in files for told in read_told(file) for sentence in split_sentences(told.story)}
    rng = random.Random(0)
    made = {sentence for _ in range(3000) for sentence in make_story(rng, 4).sentences}
    own = known & made
    # what names nobody may meet by chance: "The end.", "It jumped up and down."
    assert len(own) < 10 and not any(named_of(list(words.CHARACTERS), sentence) for sentence in own), own
