"""What a program sees in sentences: which make a scene of their own, which motions they say, who "they" are."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.models import load_bundle
from engine.plan import Region, Scene
from engine.plan_rules import check_scene
from engine.planner_answers import check_motions, check_shown, check_together
from engine.planner_outline import (
    Repairable,
    StoryScene,
    check_outline,
    joined,
    named_of,
    present_of,
    said_motions,
)
from engine.planner_prompts import split_sentences


def _scenes(story: str, *answers: tuple[str, list[str]]) -> list[tuple[list[int], str]]:
    """What becomes of answers (place, motions) about one sentence each."""
    words, sentences = load_bundle("miniature").words, split_sentences(story)
    assert words
    scenes = [StoryScene(sentences=[n], place=place, motions=motions) for n, (place, motions) in enumerate(answers, 1)]
    cast = named_of(words.characters, story)
    assert len(sentences) == len(scenes) and cast
    return [(scene.sentences, scene.place) for scene in joined(scenes, sentences, words, [])]


DANCES, STILL, STANDS = ["dances"], list[str](), ["stands still"]


@pytest.mark.parametrize(
    ("story", "answers", "scenes"),
    [
        (
            "Once there was a pig. It danced in the snow. Everybody was happy.",
            [("forest", STILL), ("snow", DANCES), ("snow", STILL)],
            [([1, 2, 3], "snow")],
        ),
        (  # somebody elsewhere
            "A pig danced in the city. They met in a meadow. The fox danced in the snow.",
            [("city", DANCES), ("city", STILL), ("snow", DANCES)],
            [([1], "city"), ([2], "meadow"), ([3], "snow")],
        ),
        (  # comes to where the next scene is
            "A pig danced in the city. It came into the forest. There it danced.",
            [("city", DANCES), ("forest", STILL), ("forest", DANCES)],
            [([1], "city"), ([2, 3], "forest")],
        ),
        (  # a deed that the model took for none, somewhere else than the next
            "A pig waited by the waves. It was late. A fox danced in the city. The pig waited there.",
            [("beach", STILL), ("beach", STILL), ("city", DANCES), ("city", STILL)],
            [([1, 2], "beach"), ([3, 4], "city")],
        ),
        (  # what comes before both
            "It was night. A pig lived in the forest. It danced.",
            [("night", STILL), ("forest", STILL), ("forest", DANCES)],
            [([1, 2, 3], "forest")],
        ),
        (  # still where it was
            "A pig danced in the city. In the city it was glad. A fox danced.",
            [("city", DANCES), ("city", STILL), ("city", DANCES)],
            [([1, 2], "city"), ([3], "city")],
        ),
        (  # no deed, whatever the model says
            "A fish danced under the sea. The octopus won. Both of them were glad. A pig did not laugh.",
            [("sea", DANCES), ("sea", STANDS), ("sea", STANDS), ("sea", STANDS)],
            [([1, 2, 3, 4], "sea")],
        ),
        (  # but to stay where one is, is one
            "A fish danced under the sea. The octopus was watching it. It did not move. A pig waited.",
            [("sea", DANCES), ("sea", STANDS), ("sea", STANDS), ("sea", STANDS)],
            [([1], "sea"), ([2], "sea"), ([3], "sea"), ([4], "sea")],
        ),
        (  # a deed that the model took for none: level 2 will see to it
            "A fish danced under the sea. The octopus had danced, too. A pig was hopping. A fox was a guest.",
            [("sea", DANCES), ("sea", STANDS), ("sea", STANDS), ("sea", STANDS)],
            [([1], "sea"), ([2], "sea"), ([3, 4], "sea")],
        ),
        (  # nobody there
            "A pig danced in the city. There was silence in the forest. A fox danced in the snow.",
            [("city", DANCES), ("forest", STILL), ("snow", DANCES)],
            [([1, 2], "city"), ([3], "snow")],
        ),
        ("A pig was in the city. A fox was in the snow.", [("city", STILL), ("snow", STILL)],
         [([1], "city"), ([2], "snow")]),
    ],
)  # fmt: skip
def test_who_is_elsewhere_is_in_a_scene_of_their_own(story, answers, scenes) -> None:
    assert _scenes(story, *answers) == scenes


def test_what_is_said_in_a_motions_own_words_is_that_motion() -> None:
    words = load_bundle("miniature").words
    assert words
    known = [*words.motions, *words.library_motions]
    assert said_motions("A lion stood still. A ladybug fell down, and then it was jumping up and down.", known) == [
        "stands still", "falls down", "jumps up and down",
    ]  # fmt: skip
    assert said_motions("The owl's flight was a dance.", known) == []


def test_a_motion_that_the_model_did_not_hear_makes_a_scene() -> None:
    words = load_bundle("miniature").words
    sentences = ["A lion did not fall; it stood still.", "It did not dance.", "A fox jumped."]
    answers = [
        StoryScene(sentences=[n], place="city", motions=m) for n, m in enumerate([[], [], ["jumps up and down"]], 1)
    ]
    outline = check_outline(answers, sentences, words)
    assert [(scene.sentences, scene.motions) for scene in outline] == [
        ([1, 2], ["stands still"]), ([3], ["jumps up and down"]),
    ]  # fmt: skip


REGION = Region(entity="chick", motion="stands still", caption="a chick stands still in the snow",
                boxes={"1-6": [0.3, 0.36, 0.66, 0.96]})  # fmt: skip


@pytest.mark.parametrize(
    ("narration", "before", "other"),
    [
        ("They met in the snow.", "An owl slept. A frog came, and a chick. They met in the snow.", "frog"),
        ("There they both stood with the owl.", "A chick came.", "owl"),
        ("They met in the snow.", "A chick came.", None),  # nobody else is known
        ("It stood in the snow.", "A frog came, and a chick.", None),
        ("They did not dance.", "A frog came, and a chick.", None),  # denied: a program cannot tell
    ],
)
def test_they_are_more_than_one(narration, before, other) -> None:
    words = load_bundle("miniature").words
    assert words
    scene = Scene(id="s", background="a field of snow", narration=narration, regions=(REGION,))
    if other is None:
        check_together(scene, "snow", before, words, [])
        return
    with pytest.raises(Repairable, match="says they, and only chick is shown") as refused:
        check_together(scene, "snow", before, words, [])
    chick, put = refused.value.answer.regions
    assert (chick.entity, put.entity, put.motion) == ("chick", other, "stands still")
    assert other in put.caption and "in the snow" in put.caption
    assert list(check_scene(refused.value.answer, {})) == []


def _scene(narration: str, *who: str) -> Scene:
    regions = [REGION.model_copy(update={"entity": name, "caption": f"a {name} stands still"}) for name in who]
    return Scene(id="s", background="a field of snow", narration=narration, regions=tuple(regions))


def _repaired(check: Callable[[], None], why: str) -> list[tuple[str, str, list[int]]]:
    """Who does what in which keyframes, once it was put right."""
    with pytest.raises(Repairable, match=why) as refused:
        check()
    return [(region.entity, region.motion, sorted(region.boxes)) for region in refused.value.answer.regions]


def test_who_is_alone_does_what_is_said_one_after_the_other() -> None:
    words = load_bundle("miniature").words
    scene = _scene("In the snow the chick is dancing until it falls down and stands still.", "chick")
    assert _repaired(lambda: check_motions(scene, "snow", words, []), "says 'dances', and no region does it") == [
        ("chick", "dances", [1, 2]), ("chick", "falls down", [3, 4]), ("chick", "stands still", [5, 6]),
    ]  # fmt: skip
    two = _scene("In the snow the chick is dancing beside the owl.", "chick", "owl")
    assert len(_repaired(lambda: check_motions(two, "snow", words, []), "says 'dances'")) == 2
    nobody = _scene("In the snow the chick is dancing.")
    assert _repaired(lambda: check_motions(nobody, "snow", words, []), "says 'dances'") == []
    check_motions(_scene("The chick does not dance.", "chick"), "snow", words, [])
    check_motions(_scene("The chick stood still.", "chick"), "snow", words, [])


def test_who_is_named_with_a_motion_that_nobody_does_is_put_beside_the_others() -> None:
    words, place = load_bundle("miniature").words, StoryScene(sentences=[1], place="snow")
    scene = _scene("A chick stands still while a pig dances by the lion.", "chick")
    found = _repaired(lambda: check_shown(scene, place, words, []), "names pig and lion")
    assert [(who, what) for who, what, _ in found] == [("chick", "stands still"), ("pig", "dances")]


@pytest.mark.parametrize(
    ("told", "answered", "shown"),
    [
        ("The pig, the panda and a small chick stood still.", ["pig", "panda"], ["pig", "panda", "chick"]),
        ("It stood still with the old panda.", ["pig"], ["pig", "panda"]),
        ("His friend the panda stood still.", ["wizard"], ["panda"]),
        ("A chick and a frog stood still for it.", ["elephant", "frog"], ["frog", "chick"]),
        ("It watched while the panda stood still.", ["wizard"], ["wizard"]),  # "it" may be the wizard
        ("A panda stood still, and the frog's hat fell.", ["panda"], ["panda"]),
    ],
)
def test_who_is_named_is_shown_with_or_for_another(told: str, answered: list[str], shown: list[str]) -> None:
    words, place = load_bundle("miniature").words, StoryScene(sentences=[1], place="snow")
    scene = _scene(told, *answered)
    try:
        check_shown(scene, place, words, [])
    except Repairable as wrong:
        scene = wrong.answer
    assert sorted(region.entity for region in scene.regions) == sorted(shown)
    assert {region.motion for region in scene.regions} == {"stands still"}
    for region in scene.regions:
        assert region.entity in region.caption


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("A pig, who had never met an owl, dances with the fox.", ["pig", "fox"]),
        ("The pig thinks of its old friend the owl and of the fox and the lion.", ["pig", "lion"]),
        ("A pig as big as a lion takes the owl's hat from the fox.", ["pig"]),
        ("From the left comes a pig, and from the right a fox; the owl is taller than both.", ["pig", "fox", "owl"]),
        ("A pig told the fox about a lion. The lion came.", ["pig", "fox", "lion"]),
    ],
)
def test_who_is_only_spoken_of_need_not_be_there(text: str, there: list[str]) -> None:
    assert present_of(["pig", "fox", "owl", "lion"], text) == there


@pytest.mark.parametrize(
    ("story", "answers", "quiet"),
    [
        ("Once a fox lived in the forest. A pig danced. It was glad.", [STILL, DANCES, STILL], [1, 3]),
        ("A pig danced. The fox watched it. The octopus won. They danced.", [DANCES, STILL, STANDS, STILL], [3]),
        ("It was night. A pig was there.", [STILL, STILL], None),  # nobody does anything: both are shown
    ],
)
def test_what_only_describes_is_not_to_be_shown(story, answers, quiet) -> None:
    words, sentences = load_bundle("miniature").words, split_sentences(story)
    scenes = [StoryScene(sentences=[n], place="snow", motions=motions) for n, motions in enumerate(answers, 1)]
    found = joined(scenes, sentences, words, [])
    assert [scene.quiet for scene in found] == ([quiet] if quiet else [[], []])
