"""Which sentences are a scene of their own, and which only describe."""

from __future__ import annotations

import pytest

from engine.models import load_bundle
from engine.planner_outline import StoryScene, joined, named_of
from engine.planner_prompts import split_sentences


def _scenes(story: str, *answers: tuple[str, list[str]]) -> list[tuple[list[int], str]]:
    """What becomes of answers (place, motions) about one sentence each."""
    words, sentences = load_bundle("miniature").words, split_sentences(story)
    assert words
    scenes = [StoryScene(sentences=[n], place=place, motions=motions) for n, (place, motions) in enumerate(answers, 1)]
    cast = named_of(words.characters, story)
    assert len(sentences) == len(scenes) and cast
    return [(scene.sentences, scene.place) for scene in joined(scenes, sentences, words, [])]


DANCES, STILL = ["dances"], list[str]()


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
