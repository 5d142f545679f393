"""Names that a story gives to its characters."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.planner_names import by_kind, names_of

CAST = ("fox", "robot", "princess", "pig", "owl", "lion")


def told(text: str) -> str:
    return " ".join(by_kind(re.split(r"(?<=[.!?]) ", text), CAST))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("There was once a fox called Max. Max walked home.", {"Max": "fox"}),
        ("A fox named Max, who was small, met a pig whose name was Ida.", {"Max": "fox", "Ida": "pig"}),
        ("Max the fox ran. Max danced.", {"Max": "fox"}),
        ("Max, a very small fox, ran. At night Max danced.", {"Max": "fox"}),
        ("Rosa was a pig. Rosa's hat was red.", {"Rosa": "pig"}),
        ("Princess Zara flew up. Zara fell.", {"Zara": "princess"}),
        ("The little fox Tim met a robot. Its name was Bolt.", {"Tim": "fox", "Bolt": "robot"}),
        ("The lion's name was Leo.", {"Leo": "lion"}),
        ("A fox met a pig. They called it Ham.", {"Ham": "pig"}),
        ("A fox called Max met a pig called Max.", {"Max": "fox"}),
        ("Then the fox danced. Then it fell.", {}),
        ("Shivering, the fox went home.", {}),
        ("On Monday the fox danced. Monday was fun.", {}),
        ("Everything the fox did was wrong. He was an old fox. He danced.", {}),
        ("A snail called Max slept.", {}),
        ("A princeſſ called Max slept.", {}),
    ],
)
def test_who_bears_which_name(text: str, names: dict[str, str]) -> None:
    assert names_of(text, CAST) == names


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("There was a fox called Max. Max ran. A pig saw Max.", "There was a fox. The fox ran. A pig saw the fox."),
        ("Princess Zara flew up. Zara's crown fell.", "The princess flew up. The princess's crown fell."),
        ("The little fox Tim ran. Tim fell.", "The little fox ran. The fox fell."),
        ("Max the fox ran. Max fell.", "The fox ran. The fox fell."),
        ("A lion slept. Its name was Leo. Leo woke up.", "A lion slept. Its name was Leo. The lion woke up."),
        ("A fox ran. Maximal joy!", "A fox ran. Maximal joy!"),
    ],
)
def test_a_small_model_hears_who_it_is(text: str, heard: str) -> None:
    assert told(text) == heard


@given(st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40), max_size=6))
def test_any_text_keeps_its_sentences(sentences: list[str]) -> None:
    heard = by_kind(sentences, CAST)
    assert len(heard) == len(sentences)
    assert by_kind(sentences, ()) == sentences
