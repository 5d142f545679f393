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
    place_named,
    present_of,
    said_motions,
)
from engine.planner_prompts import split_sentences


def _scenes(story: str, *answers: tuple[str, list[str]]) -> list[tuple[list[int], str, list[int]]]:
    """What becomes of answers (place, motions) about one sentence each: sentences, place, what need not be shown."""
    sentences = split_sentences(story)
    scenes = [StoryScene(sentences=[n], place=place, motions=motions) for n, (place, motions) in enumerate(answers, 1)]
    assert len(sentences) == len(scenes)
    return [(scene.sentences, scene.place, scene.quiet) for scene in joined(scenes, sentences)]


DANCES, STILL = ["dances"], list[str]()


@pytest.mark.parametrize(
    ("story", "answers", "scenes"),
    [
        (
            "Once there was a pig. It danced in the snow. Everybody was happy.",
            [("forest", STILL), ("snow", DANCES), ("snow", STILL)],
            [([1, 2, 3], "snow", [1, 3])],
        ),
        (  # where nothing happens is no scene
            "A pig danced in the city. There was silence in the forest. A fox danced in the snow.",
            [("city", DANCES), ("forest", STILL), ("snow", DANCES)],
            [([1, 2], "city", [2]), ([3], "snow", [])],
        ),
        (
            "It was night. A pig lived in the forest. It danced. It danced again.",
            [("night", STILL), ("forest", STILL), ("forest", DANCES), ("forest", DANCES)],
            [([1, 2, 3], "forest", [1, 2]), ([4], "forest", [])],
        ),
        (  # nobody does anything: all are shown
            "A pig was in the city. A fox was in the snow.",
            [("city", STILL), ("snow", STILL)],
            [([1], "city", []), ([2], "snow", [])],
        ),
    ],
)
def test_what_only_describes_is_told_with_the_scene_before(story, answers, scenes) -> None:
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


@pytest.mark.parametrize(
    ("sentence", "heard", "motions"),
    [
        ("There it met an owl that was spinning.", ["walks right", "spins around"], ["stands still", "spins around"]),
        ("She came across two sleepy lions, who were dancing.", ["walks left", "dances"], ["stands still", "dances"]),
        ("He finds a frog who is standing still.", ["walks right", "stands still"], ["stands still"]),
        ("It ran on until it met an owl that was spinning.", ["walks right", "spins around"], None),
        ("Strolling home, it met an owl that was spinning.", ["walks left", "spins around"], None),
        ("It met an owl.", ["walks right", "walks left"], None),  # both of them walk
        ("It met an owl that was spinning.", ["jumps up and down", "spins around"], None),
    ],
)
def test_who_meets_somebody_busy_stands_still(sentence, heard, motions) -> None:
    heard_scene = StoryScene(sentences=[1], place="city", motions=heard)
    (scene,) = check_outline([heard_scene], [sentence], load_bundle("miniature").words)
    assert scene.motions == (motions or heard)


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
        ("Unlike the lion, the pig dreamt that an owl danced.", ["pig"]),
        ("An owl-sized pig grew to lion size beside the fox.", ["pig", "fox"]),
        ("A pig, slow as an owl, passes clouds that look like frightened lions.", ["pig"]),
        ("The pig told a story about a fox who had danced with an owl, and the lion left.", ["pig", "lion"]),
    ],
)
def test_who_is_only_spoken_of_need_not_be_there(text: str, there: list[str]) -> None:
    assert present_of(["pig", "fox", "owl", "lion"], text) == there


@pytest.mark.parametrize(
    ("sentence", "place"),
    [
        ("A pig danced in the snow.", "snow"),
        ("At night-fall the pig danced.", None),
        ("A pig in a forest-green coat danced.", None),
        ("A pig did not dance in the snow.", None),
        ("From the city the pig walked into the forest.", "forest"),
        ("Up to the bright stars the pig flew.", "night"),
        ("A pig danced between the corals.", "sea"),
        ("A pig danced to the stars' music.", None),
        ("A pig in the snow danced beside a cactus.", None),
    ],
)
def test_a_place_is_named_in_the_models_own_words(sentence: str, place: str | None) -> None:
    words = load_bundle("miniature").words
    assert words
    assert place_named([sentence], words) == place
