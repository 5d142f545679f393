"""What a planner model is asked: the questions of both levels, and the JSON schemas that bind its answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import jinja2

from engine.chat import Message
from engine.errors import InputError
from engine.models import Bundle, Words
from engine.plan import KEYFRAMES
from engine.plan_rules import MIN_SIDE
from engine.planner_outline import (
    DESCRIPTIONS,
    MAX_REGIONS,
    NEGATION,
    PRONOUNS,
    STILL,
    StoryScene,
    entities_of,
    motions_of,
    named_of,
    place_named,
    present_of,
    stage_phrases,
)

SAID_OF = {  # who is called what; animals are it, he or she, and so may wizards be
    "she": re.compile(r"\b(princess|queen|girl|witch|woman|mother|grandmother|lady)\b", re.IGNORECASE),
    "he": re.compile(r"\b(king|prince|boy|man|father|grandfather|uncle)\b", re.IGNORECASE),
}
CALLED = {
    "she": re.compile(r"\b(she|hers?)\b", re.IGNORECASE),
    "he": re.compile(r"\b(he|his|him)\b", re.IGNORECASE),
}
SEVERAL = re.compile(r"\b(they|both|(?<!of )the two)\b", re.IGNORECASE)  # "the taller of the two" is one
SCENES_BEFORE = (3, 8)  # whose narration is told when one says "it" or "they": at least, and at most
AROUND = (2, 1)  # sentences before and after a piece of a story that are told with it
MEANT = 2  # of the cast, who must be named in it
MAX_MEANT = 3  # among whom the schema chooses those who are meant by "they"
SENTENCE_LETTERS = 400  # longer ones are cut, so that no single line fills the model's context
SYSTEM = "You plan animated films."
TOPIC_SENTENCES = (4, 6)  # of a story on a topic, at least and at most


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "prompts"),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _messages(bundle: Bundle, level: str, **values: Any) -> list[Message]:
    """A model that was tuned to the task is asked briefly; any other is told the rules and shown an example."""
    tuned = bundle.planner is not None and bundle.planner.adapter is not None and level != "topic"
    text = _templates().get_template(f"{level}-tuned.txt" if tuned else f"{level}.txt").render(**values)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text.strip()}]


def topic_messages(bundle: Bundle, topic: str, characters: list[str]) -> list[Message]:
    """The question for a story on a topic."""
    words = bundle.words
    return _messages(
        bundle, "topic", topic=topic, characters=characters, words=words, least=TOPIC_SENTENCES[0],
        most=TOPIC_SENTENCES[1], entities=entities_of(words, characters),
        places=[stage_phrases(words, stage)[0] for stage in words.stages] if words else None,
    )  # fmt: skip


def topic_schema(words: Words | None, characters: list[str]) -> dict[str, Any]:
    """JSON schema of a story on a topic. With a closed vocabulary a sentence is one of its entities, motions and
    places, so that what is invented can be drawn."""
    sentence: dict[str, Any] = {"type": "string", "minLength": 8, "maxLength": 200}
    if words:
        places = [stage_phrases(words, stage)[0] for stage in words.stages]
        parts = [entities_of(words, characters) or [], motions_of(words) or [], places]
        choices = ["|".join(re.escape(word).replace("\\ ", " ") for word in part) for part in parts]
        sentence = {"type": "string", "pattern": "^The ({}) ({}) ({})\\.$".format(*choices)}
    return _object({"sentences": _list(sentence, *TOPIC_SENTENCES)})


def story_messages(
    bundle: Bundle, sentences: list[str], first: int, count: int, characters: list[str], place: str = ""
) -> list[Message]:
    """The question of level 1 on `count` of a story's sentences from `first`. `place`: where the part before ended."""
    earlier, later = AROUND
    before, after = sentences[max(0, first - earlier) : first], sentences[first + count :][:later]
    return _messages(
        bundle, "story", sentences=sentences[first : first + count], before=" ".join(before), after=" ".join(after),
        characters=characters, place=place, words=bundle.words,
    )  # fmt: skip


def scene_messages(
    bundle: Bundle, outline: StoryScene, narration: str, before: str, characters: list[str]
) -> list[Message]:
    """The question of level 2. `before`: the narration of the scenes before, told when this one says "it"."""
    return _messages(
        bundle, "scene", place=outline.place, motions=outline.motions or [STILL], narration=narration,
        before=before if refers(narration) else "", characters=characters, words=bundle.words,
        entities=entities_of(bundle.words, characters),
        keyframes=KEYFRAMES, max_regions=MAX_REGIONS, min_side=round(100 * MIN_SIDE),
    )  # fmt: skip


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _list(items: dict[str, Any], least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _text(choice: list[str] | None, most: int = 200) -> dict[str, Any]:
    return {"type": "string", "enum": choice} if choice else {"type": "string", "minLength": 1, "maxLength": most}


def story_schema(words: Words | None, sentences: list[str]) -> dict[str, Any]:
    """JSON schema of a level-1 answer on these sentences. The place that a single one names plainly is the only one."""
    count = len(sentences)
    named = place_named(sentences, words) if words and count == 1 else None
    scene = {
        "sentences": _list({"type": "integer", "minimum": 1, "maximum": count}, 1, count),
        "place": _text([named] if named else list(words.stages) if words else None),
        "motions": _list(_text(motions_of(words), 60), 0, MAX_REGIONS),
    }
    return _object({"scenes": _list(_object(scene), 1, count)})


def before_of(narrations: Sequence[str], cast: Sequence[str]) -> list[str]:
    """Of the scenes before one, those it may refer to: the last three, and more until two of the cast are named."""
    least, most = SCENES_BEFORE
    some = (narrations[-n:] for n in range(least, most + 1))
    return list(next((those for those in some if len(named_of(cast, " ".join(those))) >= MEANT), narrations[-most:]))


def refers(narration: str) -> bool:
    """Whether somebody may be meant who was named before."""
    return bool(PRONOUNS.search(narration) or DESCRIPTIONS.search(narration))


def told_entities(words: Words, characters: list[str], *texts: str) -> list[str]:
    """Those whom the first of the texts that names somebody names."""
    known = entities_of(words, characters) or []
    return next(filter(None, (named_of(known, text) for text in texts)), [])


def check_cast(text: str, characters: list[str], bundle: Bundle, source: str = "story") -> None:
    """Raises InputError for a story that names nobody whom a model of few words can draw."""
    if bundle.words and not told_entities(bundle.words, characters, text):
        cast = ", ".join(entities_of(bundle.words, characters) or ())
        raise InputError(
            f"{source}: the story names nobody whom {bundle.name} can draw; tell it in English, of {cast}, or "
            "of somebody whose picture you give in the story's head (characters: name: picture.png)"
        )


def scene_schema(
    words: Words | None, characters: list[str], narration: str = "", before: str = "", story: str = ""
) -> dict[str, Any]:
    """JSON schema of a level-2 answer. Nothing beyond the narration is to be shown: those it names, and with "it" or
    "they" those named before; when it names nobody, or says "the bird", anybody whom the story names (its owl). "They"
    are at least two: those of the sentence before, when it names several."""
    told = f"{narration} {before}" if refers(narration) else narration
    if DESCRIPTIONS.search(narration):
        told += f" {story}"
    several = SEVERAL.search(affirmed(narration))
    if words and several and before:
        last = split_sentences(before)[-1]
        if len(present_of(entities_of(words, characters) or (), last)) >= 2:
            told = f"{narration} {last}"
    entities = told_entities(words, characters, told, story) or entities_of(words, characters) if words else None
    if entities and not several and PRONOUNS.search(narration):
        here = named_of(entities, narration)
        entities = [name for name in entities if name in here or _may_be_meant(name, narration)] or entities
    box = _list({"type": "integer", "minimum": 0, "maximum": 100}, 4, 4)

    def region(entities: list[str] | None) -> dict[str, Any]:
        fields = {
            "entity": _text(entities, 60),
            "motion": _text(motions_of(words), 60),
            **({} if words else {"caption": _text(None)}),
            "frames": _list({"type": "integer", "minimum": 1, "maximum": KEYFRAMES}, 2, 2),
            "from": box,
            "to": box,
        }
        return _object(fields, optional=("frames", "to"))

    regions = _list(region(entities), 0, MAX_REGIONS)
    if words and entities and 2 <= len(entities) <= MAX_MEANT and several:
        one_of = {name: region([name]) for name in entities}
        # the second may come after two deeds of the first
        heads = [[one_of[a]] * n + [one_of[b]] for a, b in permutations(entities, 2) for n in (1, 2)]
        rest = region(entities)
        regions = {"anyOf": [{**_list(rest, len(head), MAX_REGIONS), "prefixItems": head} for head in heads]}
    return _object({**({} if words else {"reason": _text(None, 400), "background": _text(None)}), "regions": regions})


def _may_be_meant(name: str, narration: str) -> bool:
    """Whether the narration's pronouns may mean somebody: a princess is she, and neither he nor it."""
    return all(CALLED[he].search(narration) for he, known in SAID_OF.items() if known.search(name))


def affirmed(narration: str) -> str:
    """Its sentences without a negation."""
    return " ".join(sentence for sentence in split_sentences(narration) if not NEGATION.search(sentence))


def sentences_at_once(bundle: Bundle) -> int:
    """How many sentences one level-1 question holds: the bundle's choice, or as many as fit the model's context with
    their answer."""
    if bundle.planner and bundle.planner.sentences_at_once:
        return bundle.planner.sentences_at_once
    return max(4, (bundle.planner.max_model_len if bundle.planner else 8192) // 170)


_TITLES = r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)"  # a full stop that ends no sentence
_END = re.compile(
    rf"((?<=[.!?]){_TITLES}|(?<=[.!?][\"'”’)]))\s+(?=[^a-z])"
    r"|(?<=[a-z]{3}\.)(?<!\betc\.)\s+(?=[a-z])"  # some write without capitals
)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, nothing lost but the white space between them; very long ones are cut between words."""
    sentences: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in _END.sub("\n", " ".join(paragraph.split())).split("\n"):
            while len(sentence) > SENTENCE_LETTERS:
                cut = sentence.rfind(" ", 1, SENTENCE_LETTERS)
                cut = cut if cut > 0 else SENTENCE_LETTERS
                sentences.append(sentence[:cut])
                sentence = sentence[cut:].strip()
            sentences += [sentence] if sentence else []
    return sentences
