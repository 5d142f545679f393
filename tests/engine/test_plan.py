"""plan.yaml: what is read, what is refused, and what comes back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.plan import KEYFRAMES, Box, Plan, Region, Scene, dump_plan, load_plan, parse_plan
from engine.textform import format_text, parse_text
from tests.conftest import ROOT

GOOD = """\
title: A walk
scenes:
  - id: one
    background: in the forest
    regions:
      - entity: fox
        motion: walks right
        caption: a fox walks right in the forest
        boxes:
          1-3: [0.0, 0.3, 0.4, 1.0]
          4: [0.3, 0.3, 0.7, 1.0]
"""


def test_reads_runs_of_keyframes() -> None:
    region = parse_plan(GOOD).scenes[0].regions[0]
    assert sorted(region.boxes) == [1, 2, 3, 4]
    assert region.boxes[3] == Box(0.0, 0.3, 0.4, 1.0)
    assert region.boxes[4].left == 0.3
    assert [len(regions) for regions in parse_plan(GOOD).scenes[0].keyframes()] == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("[0.3, 0.3, 0.7, 1.0]", "[0.3, 0.3, 1.7, 1.0]", 9, "right is 1.7, but edges lie in 0..1"),
        ("[0.3, 0.3, 0.7, 1.0]", "[0.7, 0.3, 0.3, 1.0]", 9, "left (0.7) must be less than right (0.3)"),
        ("[0.3, 0.3, 0.7, 1.0]", "[0.3, 0.3, 0.7]", 9, "four numbers"),
        ("          4:", "          9:", 9, "9 is no keyframe"),
        ("          4:", "          3:", 9, "two boxes"),
        ("id: one", "id: One Two", 3, "scenes.0.id"),
        ("        caption: a fox walks right in the forest\n", "", 6, "caption: Field required"),
        ("    background: in the forest", "    backdrop: in the forest", 3, "scenes.0.background: Field required"),
        ("title: A walk", "titel: A walk", 1, "titel"),
    ],
)
def test_errors_name_line_and_field(old: str, new: str, line: int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_plan(GOOD.replace(old, new), "plan.yaml")
    message = str(caught.value)
    assert message.startswith(f"plan.yaml: line {line}:"), message
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "scenes: []", "title: x", "- a", "a: [", "scenes: 3"])
def test_no_plan_is_one_clear_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_plan(text, "p.yaml")
    assert str(caught.value).startswith("p.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(InputError, match=r"cannot read the plan"):
        load_plan(tmp_path / "no.yaml")


def test_two_scenes_with_one_id() -> None:
    scene = Scene(id="a", background="x")
    with pytest.raises(ValueError, match=r"two scenes have the id 'a'"):
        Plan(scenes=(scene, scene))


words = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)
edges = st.lists(st.integers(0, 10_000), min_size=2, max_size=2, unique=True).map(
    lambda e: [n / 10_000 for n in sorted(e)]
)
boxes = st.builds(lambda x, y: Box(x[0], y[0], x[1], y[1]), edges, edges)
regions = st.builds(
    Region,
    entity=words,
    motion=words,
    caption=words,
    boxes=st.dictionaries(st.integers(1, KEYFRAMES), boxes, min_size=1),
)
ids = st.from_regex(r"[a-z0-9][a-z0-9-]{0,9}", fullmatch=True)
regions_of_a_scene = st.lists(regions, max_size=4).map(tuple)
scenes = st.builds(Scene, id=ids, background=words, narration=words, regions=regions_of_a_scene)
plans = st.builds(
    Plan, title=words, scenes=st.lists(scenes, min_size=1, max_size=4, unique_by=lambda s: s.id).map(tuple)
)


@given(plans)
@settings(max_examples=60, deadline=None)
def test_yaml_round_trip(plan: Plan) -> None:
    assert parse_plan(dump_plan(plan)) == plan


@given(scenes)
@settings(max_examples=60, deadline=None)
def test_text_form_keeps_every_keyframe(scene: Scene) -> None:
    """Two regions with the same words may change places between keyframes: the form has no other way to tell them."""
    again = parse_text(format_text(scene), scene.id).scene
    assert again.background == scene.background
    for before, after in zip(scene.keyframes(), again.keyframes(), strict=True):
        plain = [sorted((r.entity, r.motion, r.caption, box) for r, box in side) for side in (before, after)]
        assert plain[0] == plain[1]


def test_the_authors_plans_round_trip(author_plans) -> None:
    notes = 0
    for name, text in author_plans:
        reading = parse_text(text, name.removesuffix(".mp4"))
        notes += len(reading.notes)
        assert parse_text(format_text(reading.scene), reading.scene.id).scene == reading.scene
        plan = Plan(scenes=(reading.scene,))
        assert parse_plan(dump_plan(plan)) == plan
    assert notes == 5  # four boxes leave the picture, one is empty


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Frame_1: []", "no `Background:` line"),
        ("Background: x\nFrame_1: ", "1 frames"),
        ("Background: x\nFrame_1: [[1, 2], 3]", "line 2: expected"),
        ("Background: x\nFrame_1: \nFrame_1: ", "once each"),
    ],
)
def test_broken_text_form(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_text(text, "s")


def test_the_example_is_a_plan() -> None:
    plan = load_plan(ROOT / "examples" / "the-fox-and-the-robot.plan.yaml")
    assert 5 <= len(plan.scenes) <= 6
    assert sum(len(scene.regions) >= 2 for scene in plan.scenes) >= 2
