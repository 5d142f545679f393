"""What the planner's model is asked, and the schemas that bind its answers."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.miniature import words
from engine.models import PlannerModel, load_bundle
from engine.planner_prompts import before_of, scene_schema, split_sentences, story_messages, story_schema, topic_schema

MINIATURE = load_bundle("miniature")
CAST = list(words.BASE_CHARACTERS)


def test_only_those_who_are_told_of_may_be_shown() -> None:
    def may(narration: str, before: str = "", told: str = "") -> list[str]:
        schema = scene_schema(MINIATURE.words, ["dragon"], narration, before, told)
        return schema["properties"]["regions"]["items"]["properties"]["entity"]["enum"]

    assert may("The Robot and three foxes saw a dragon.", "A pig slept.") == ["fox", "robot", "dragon"]
    assert may("A fish swam to the catfish.", "A pig slept.") == ["fish"]
    assert may("It danced.", "A pig slept.") == ["pig"]
    assert may("The bird danced.", "A pig slept.", "An owl saw a dragon. A pig slept.") == ["pig", "owl", "dragon"]
    assert may("The bird saw a fox.", "A pig slept.", "An owl saw a pig.") == ["fox", "pig", "owl"]
    assert may("A bunny danced.", "A pig slept.") == [*words.BASE_CHARACTERS, "dragon"]
    met = "A wizard and a princess met a fox."
    assert may("He danced.", met) == ["fox", "wizard"]
    assert may("She danced.", met) == ["fox", "wizard", "princess"]
    assert may("It danced.", met) == ["fox", "wizard"]
    assert may("It danced with the princess.", met) == ["fox", "wizard", "princess"]
    assert may("He gave her a rose.", met) == ["fox", "wizard", "princess"]
    assert may("It danced.", "A princess slept.") == ["princess"]  # nobody else can be meant


def test_what_was_told_before_names_two_at_least() -> None:
    told = ["A fox met a pig.", *[f"It ran {n} miles." for n in range(9)], "A frog came.", "It sat.", "It hid."]
    assert before_of(told[:1], CAST) == told[:1]
    assert before_of(told[:4], CAST) == told[:4]  # three name nobody
    assert before_of(told[:7], CAST) == told[:7]
    assert before_of(told[:9], CAST) == told[1:9]  # eight at most
    assert before_of([*told, "An owl came."], CAST) == [*told[-3:], "An owl came."]
    assert before_of([], CAST) == []


def test_they_are_at_least_two() -> None:
    def shown(narration: str, before: str = "A fox met a pig.") -> dict:
        return scene_schema(MINIATURE.words, [], narration, before)["properties"]["regions"]

    def pairs(before: str) -> list[list[str]]:
        ways = shown("They ran.", before)["anyOf"]
        heads = [[region["properties"]["entity"]["enum"][0] for region in way["prefixItems"]] for way in ways]
        assert [way["minItems"] for way in ways] == [len(head) for head in heads]
        return heads

    both = [["fox", "pig"], ["fox", "fox", "pig"], ["pig", "fox"], ["pig", "pig", "fox"]]  # two deeds of the first
    assert pairs("A fox met a pig.") == pairs("An owl came. A fox met a pig.") == both
    assert len(pairs("An owl came. A fox sang about a pig.")) == 12  # any two of the three
    # the last is left to the model
    for other in ("It ran.", "They did not run.", "The taller of the two ran.", "They saw an owl and a lion."):
        assert "anyOf" not in shown(other)


def test_the_schema_knows_the_bundles_words_and_the_storys_characters() -> None:
    entity = scene_schema(MINIATURE.words, ["dragon"])["properties"]["regions"]["items"]["properties"]["entity"]
    assert entity["enum"] == [*words.BASE_CHARACTERS, "dragon"]
    told = ["A fox walks in the snow.", "It dances.", "A pig is on the beach."]
    scene = story_schema(MINIATURE.words, told)["properties"]["scenes"]["items"]["properties"]
    assert scene["place"]["enum"] == list(words.STAGES)
    for sentence, places in zip(told, (["snow"], list(words.STAGES), ["beach"]), strict=True):
        alone = story_schema(MINIATURE.words, [sentence])["properties"]["scenes"]["items"]["properties"]
        assert alone["place"]["enum"] == places  # what a program can read
    assert "enum" not in story_schema(None, told)["properties"]["scenes"]["items"]["properties"]["place"]
    assert scene["motions"]["items"]["enum"] == list(words.MOTIONS)
    free = scene_schema(None, ["dragon"])["properties"]
    assert "enum" not in free["regions"]["items"]["properties"]["entity"]
    assert list(free) == ["reason", "background", "regions"]  # it reasons before it lays out


def test_schemas_are_what_the_grammar_compiler_takes() -> None:
    import xgrammar

    told = ["A fox walks in the snow.", "It dances."]
    for vocabulary in (MINIATURE.words, None):
        for schema in (
            story_schema(vocabulary, told), scene_schema(vocabulary, ["dragon"]), topic_schema(vocabulary, ["dragon"]),
            scene_schema(vocabulary, ["dragon"], "They ran.", "A fox met a dragon."),
        ):  # fmt: skip
            assert xgrammar.Grammar.from_json_schema(json.dumps(schema), any_whitespace=False)


def test_only_an_untuned_model_is_told_the_rules() -> None:
    tuned = story_messages(MINIATURE, ["A fox ran."], 0, 1, ["dragon"])[1]["content"]
    assert tuned == "Characters: dragon\nStory:\n1 A fox ran."
    untuned = MINIATURE.model_copy(update={"planner": PlannerModel(model="some-model")})
    told = story_messages(untuned, ["A fox ran."], 0, 1, ["dragon"])[1]["content"]
    assert told.endswith("The story\n1 A fox ran.")
    assert "Every sentence belongs to exactly one scene" in told
    assert "zigzags across" in told


def test_a_piece_is_asked_about_between_its_neighbours() -> None:
    story = ["One.", "Two.", "Three.", "Four.", "Five.", "Six.", "Seven."]
    content = story_messages(MINIATURE, story, 3, 2, [], "sea")[1]["content"]
    assert content == "Place: sea\nBefore: Two. Three.\nStory:\n1 Four.\n2 Five.\nAfter: Six."
    untuned = MINIATURE.model_copy(update={"planner": PlannerModel(model="some-model")})
    told = story_messages(untuned, story, 3, 2, [], "sea")[1]["content"]
    assert "scenes already: Two. Three.\n\nThe story\n1 Four.\n2 Five.\n\nThe next part" in told
    assert told.endswith("begins: Six.")


def test_sentences() -> None:
    text = '"Wait!" said Mr. Fox. He waited 3.5 hours... and slept.\n\nThe end'
    assert split_sentences(text) == ['"Wait!" said Mr. Fox.', "He waited 3.5 hours... and slept.", "The end"]
    hasty = "panda walks right. then it spins round, sings,\nflies etc. until night"
    assert split_sentences(hasty) == ["panda walks right.", "then it spins round, sings, flies etc. until night"]


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(st.text(alphabet="ab .!?\"'”\n", max_size=1500))
def test_splitting_loses_no_word(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(0 < len(sentence) <= 400 for sentence in sentences)
