"""Level 1 of the planner: which sentences make which scene, and where; checked against the sentences themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.models import Words
from engine.motion_names import normal_motion

MAX_REGIONS = 4  # method: at most four motions a scene
MAX_NARRATION = 2000  # letters
# who is not named
PRONOUNS = re.compile(
    r"\b(it|its|he|she|his|her|hers|him|they|them|their|both|two|each|every(one|body)|"
    r"(this|that|the( [\w'’-]+)?) one|all (three|of them)|the (others|friends|pair|three))\b",
    re.IGNORECASE,
)
DETERMINERS = re.compile(r"an?|the|this|that|his|her|its|their|every|each|some", re.IGNORECASE)  # before a noun
STILL = "stands still"  # what somebody does who does nothing else
# "lived", "was bored", "won", "did not laugh": what a sentence without a deed says; not when it tells of standing there
STATES = re.compile(
    r"\b((was|were|is|are)(?! (\w+ly )?\w+ing\b)|ha[sd]|live[sd]?|won|lost|like[sd]?|love[sd]?|wants?|wanted|"
    r"kn[eo]ws?|believe[sd]?|forg[oe]ts?|"
    r"(can|could|did|does|do|would) ?not)\b|n['’]t\b",
    re.IGNORECASE,
)
STAYS = re.compile(
    r"\b(st(and|ood|ay|are|aring|ill|op|atue)|wait|watch|sat\b|sit|rest|look|gaz|motionless|fr(ee|o)ze|nothing|mov|budge|"
    r"rooted|listen|paus|linger|remain)",
    re.IGNORECASE,
)
INTRODUCES = re.compile(r"\b(once|lived|lives)\b", re.IGNORECASE)  # "Once there was a fox in a forest": no shot yet
# how a sentence begins that goes on with the shot before
GOES_ON = re.compile(
    r"(and |but )?(at the (very )?same (time|moment)|all the while|(meanwhile,? )?(right )?"
    r"((beside|next to|behind|in front of|opposite) (it|him|her|them)|(at|by) (its|his|her|their) side))\b",
    re.IGNORECASE,
)
# what it says does not happen
NEGATION = re.compile(
    r"\b(not|no|nobody|never|without|instead|cannot|wants?|wanted|refuses?d?|as (if|though)|seem(s|ed)?|wish(es|ed)?)\b"
    r"|n['’]t\b",
    re.IGNORECASE,
)
QUOTED = re.compile(r"[\"“][^\"“”]*[\"”]")  # what somebody says is not seen
ASIDE = re.compile(r", (who|which|that|whose|whom|where)\b[^,.;:!?]*", re.IGNORECASE)  # ", who had never met the owl"
# somebody, {}, who is only spoken of: "of its old friend the owl", "the owl's"
OF = r"\b(of|about|from|like|than|for|as \w+ as)( (?!(and|left|right)\b)[\w’'-]+){{0,4}} {0}\b|\b{0}['’]s\b"


class Refused(ValueError):
    """Why an answer cannot be used; the language model is told."""


class Repairable(Refused):
    """Why an answer should not be used; and, when no better one comes, what a program makes of it, and how. When the
    repair is `certain`, nothing better can come."""

    def __init__(self, reason: str, answer: Any, repair: str, certain: bool = False) -> None:
        super().__init__(reason)
        self.answer, self.repair, self.certain = answer, repair, certain


class StoryScene(BaseModel):
    """One scene of a level-1 answer. `quiet`, which no answer gives: those of its sentences in which nobody does
    anything; level 2 is not asked to show them."""

    model_config = ConfigDict(extra="forbid")

    sentences: Annotated[list[int], Field(min_length=1)]
    place: Annotated[str, Field(min_length=1, max_length=200)]
    motions: Annotated[list[str], Field(max_length=MAX_REGIONS)] = []
    quiet: list[int] = []

    def moved(self, by: int) -> StoryScene:
        """The same of sentences whose numbers are so much higher."""
        numbers = {name: [by + n for n in getattr(self, name)] for name in ("sentences", "quiet")}
        return self.model_copy(update=numbers)


class StoryAnswer(BaseModel):
    """Level 1."""

    model_config = ConfigDict(extra="forbid")

    scenes: Annotated[list[StoryScene], Field(min_length=1)]


class TopicAnswer(BaseModel):
    """A story on a topic."""

    model_config = ConfigDict(extra="forbid")

    sentences: Annotated[list[Annotated[str, Field(min_length=1, max_length=400)]], Field(min_length=1, max_length=12)]


def parse_answer(kind: type[Any], text: str) -> Any:
    """The answer of a kind. What stands around its braces (a model that is not bound to JSON may chat) is left out."""
    try:
        return kind.model_validate_json(text[text.find("{") : text.rfind("}") + 1] or text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(f"{where}: {first['msg']}" if where else first["msg"]) from None


def entities_of(words: Words | None, characters: list[str]) -> list[str] | None:
    return list(dict.fromkeys([*words.characters, *characters])) if words else None


def motions_of(words: Words | None) -> list[str] | None:
    return [*words.motions, *words.library_motions] if words else None


def named_of(cast: Sequence[str], text: str) -> list[str]:
    """Those of the cast whom the text names, one or several of a kind ("two foxes")."""
    return [name for name in cast if re.search(rf"\b{re.escape(name)}(s|es)?\b", text, re.IGNORECASE)]


def present_of(cast: Sequence[str], text: str) -> list[str]:
    """Those whom the text does not only speak of ("who dreams of an owl", "the pig's hat", "as big as a lion")."""
    text = ASIDE.sub(" ", QUOTED.sub(" ", text))
    return [name for name in cast if named_of([name], re.sub(OF.format(re.escape(name)), " ", text, flags=re.I))]


def said_motions(text: str, motions: Sequence[str]) -> list[str]:
    """Those of the motions that the text says in their own words, in any tense ("stood still"; "a dance" is none), in
    the order in which it says them."""
    spoken = re.findall(r"[\w'’-]+", QUOTED.sub(" ", text))
    verbs = [n for n in range(len(spoken)) if n == 0 or not DETERMINERS.fullmatch(spoken[n - 1])]
    said = [m for n in verbs for m in motions if m == normal_motion(" ".join(spoken[n : n + len(m.split())]))]
    return list(dict.fromkeys(said))


def check_invented(sentences: list[str]) -> None:
    """Raises Repairable when a sentence of an invented story comes twice."""
    once = list(dict.fromkeys(sentences))
    if len(once) < len(sentences):
        raise Repairable("a sentence comes twice; something new must happen in each", once, "told once")


def check_outline(
    scenes: list[StoryScene], sentences: list[str], words: Words | None, characters: Sequence[str] = ()
) -> list[StoryScene]:
    """The scenes, when they hold every sentence once and in order, each in the place that its sentences name. Raises
    Repairable with that put right, and Refused for a scene of too many letters.

    Places bind models of few words alone. With these, scenes without a motion, or of sentences that name nobody ("The
    end."), only describe and join their neighbours; one that reads any text may show an empty street.
    """
    reasons, done, certain = [], [], True
    if reason := _disorder(scenes, len(sentences)):
        scenes, certain = _in_order(scenes, len(sentences)), False
        reasons.append(reason)
        done.append("sentences given to the scenes in order")
    if words:
        scenes = [_with_said_motions(scene, sentences, words) for scene in scenes]
        scenes = joined(scenes, sentences, words, characters)
        divided = _by_place(scenes, sentences, words)
        if len(divided) > len(scenes):
            reasons.append("a scene is one shot in one place, and the sentences of one name two")
            done.append("divided where the place changes")
            scenes = divided
        wrong, scenes = _where_named(scenes, sentences, words)
        reasons += wrong
        done += ["given the place that the story names"] if wrong else []
    for n, scene in enumerate(scenes, 1):
        if sum(len(sentences[k - 1]) + 1 for k in scene.sentences) > MAX_NARRATION:
            raise Refused(f"scene {n} has more than {MAX_NARRATION} letters; divide it")
    if reasons:
        raise Repairable("; ".join(reasons), scenes, "; ".join(done), certain)
    return scenes


def _disorder(scenes: list[StoryScene], count: int) -> str:
    used = [n for scene in scenes for n in scene.sentences]
    if used == list(range(1, count + 1)):
        return ""
    missing = [n for n in range(1, count + 1) if n not in used]
    why = f"no scene has sentence {missing[0]}" if missing else f"they come in the order {used}"
    return f"every sentence belongs to exactly one scene, in order; {why}"


def _in_order(scenes: list[StoryScene], count: int) -> list[StoryScene]:
    """Each sentence in the first scene that claims it, no earlier than its predecessor's, else in its predecessor's;
    scenes without a sentence are left out."""
    owner, now = [], 0
    for sentence in range(1, count + 1):
        now = next((n for n in range(now, len(scenes)) if sentence in scenes[n].sentences), now)
        owner.append(now)
    return [
        scene.model_copy(update={"sentences": [k for k, n in enumerate(owner, 1) if n == number]})
        for number, scene in enumerate(scenes)
        if number in owner
    ]


def _with_said_motions(scene: StoryScene, sentences: list[str], words: Words) -> StoryScene:
    """A scene to which the model gave no motion has those that its sentences say in the bundle's own words."""
    clauses = re.split(r"[;:]|,? but ", " ".join(sentences[n - 1] for n in scene.sentences))
    told = " . ".join(clause for clause in clauses if not NEGATION.search(clause))
    if scene.motions or not (said := said_motions(told, motions_of(words) or ())):
        return scene
    return scene.model_copy(update={"motions": said[:MAX_REGIONS]})


def _names_somebody(scene: StoryScene, sentences: list[str], cast: list[str]) -> bool:
    told = " ".join(sentences[number - 1] for number in scene.sentences)
    return bool(PRONOUNS.search(told) or named_of(cast, told))


def _only_describes(scene: StoryScene, sentences: list[str], words: Words) -> bool:
    """Nobody does anything, or stands still in sentences that tell of a state alone ("The octopus won.")."""
    if set(scene.motions) != {STILL}:
        return not scene.motions
    told = " ".join(sentences[number - 1] for number in scene.sentences)
    return bool(STATES.search(told)) and not _deed_heard(told, words)


def _deed_heard(told: str, words: Words) -> bool:
    """Whether a program hears that somebody does something, or stays where they are."""
    return bool(STAYS.search(told) or said_motions(told, motions_of(words) or ()))


def _quiet(scene: StoryScene, sentences: list[str], words: Words) -> list[int]:
    """Which sentences of a scene that only describes level 2 need not hear."""
    return [*scene.quiet, *(n for n in scene.sentences if not _deed_heard(sentences[n - 1], words))]


def joined(scenes: list[StoryScene], sentences: list[str], words: Words, characters: Sequence[str]) -> list[StoryScene]:
    """The scenes, those that only describe being part of the one before, at the beginning of the one after. Who comes
    into another place is described with the scene that is there; when none is, that is a scene of its own. When none
    of all shows anybody, all stay. What begins with "At the same time" or "Beside it" goes on with the one before."""
    cast = [*words.characters, *characters]
    somebody = [_names_somebody(scene, sentences, cast) for scene in scenes]
    acts = [
        named and not _only_describes(scene, sentences, words) for scene, named in zip(scenes, somebody, strict=True)
    ]
    if not any(acts):
        return scenes
    out: list[StoryScene] = []
    waiting: list[int] = []
    quiet: list[int] = []
    for n, scene in enumerate(scenes):
        shown, told = acts[n], [*waiting, *scene.sentences]
        said = quiet if shown else [*quiet, *_quiet(scene, sentences, words)]
        here = [sentences[k - 1] for k in scene.sentences]
        place = None if INTRODUCES.search(" ".join(here)) else _place_named(here, words)
        if not place and any(_deed_heard(sentence, words) for sentence in here):
            place = scene.place
        if not shown and somebody[n] and place and not (out and out[-1].place == place):
            following = next((later for later, act in zip(scenes[n + 1 :], acts[n + 1 :], strict=True) if act), None)
            if following and following.place == place:
                waiting, quiet = told, said
                continue
            shown, said, scene = True, quiet, scene.model_copy(update={"place": place})
        if out and (not shown or _goes_on(scene, here, out[-1])):
            last, more = out[-1], scene.motions if shown else []
            both = {"sentences": [*last.sentences, *told], "motions": list(dict.fromkeys([*last.motions, *more]))}
            out[-1] = last.model_copy(update=both | {"quiet": [*last.quiet, *said, *(scene.quiet if shown else ())]})
        elif shown:
            out.append(scene.model_copy(update={"sentences": told, "quiet": [*said, *scene.quiet]}))
        waiting, quiet = ([], []) if out else (told, said)
    return out


def _goes_on(scene: StoryScene, sentences: list[str], before: StoryScene) -> bool:
    """Whether the scene is one shot with the one before, by its first words."""
    count = len(dict.fromkeys([*before.motions, *scene.motions]))
    return scene.place == before.place and count <= MAX_REGIONS and bool(GOES_ON.match(sentences[0]))


def _place_named(sentences: list[str], words: Words) -> str | None:
    """The one place that the sentences name in the bundle's own words ("in the forest", "through the snow"). What a
    sentence with a negation names is left alone."""
    told = " ".join(sentence.lower() for sentence in sentences if not NEGATION.search(sentence))
    named = [
        stage
        for stage in words.stages
        if stage_phrases(words, stage)[0] in told
        or re.search(rf"\b(in|into|through|across|under)( the| an?)?( \w+)? {stage}\b|\bat {stage}\b", told)
    ]
    return named[0] if len(named) == 1 else None


def _by_place(scenes: list[StoryScene], sentences: list[str], words: Words) -> list[StoryScene]:
    """Scenes whose sentences go from one named place to another are divided there: a scene is one shot in one place."""
    out: list[StoryScene] = []
    for scene in scenes:
        parts: list[list[int]] = [[]]
        here = None
        for number in scene.sentences:
            named = _place_named([sentences[number - 1]], words)
            if here and named and named != here:
                parts.append([])
            here = named or here
            parts[-1].append(number)
        out += [scene] if len(parts) == 1 else [scene.model_copy(update={"sentences": p, "quiet": []}) for p in parts]
    return out


def _where_named(scenes: list[StoryScene], sentences: list[str], words: Words) -> tuple[list[str], list[StoryScene]]:
    """Which scenes are elsewhere than their sentences say, and all scenes where they should be."""
    wrong, right = [], []
    for n, scene in enumerate(scenes, 1):
        named = _place_named([sentences[k - 1] for k in scene.sentences], words)
        if named and scene.place != named:
            wrong.append(f"scene {n} is {stage_phrases(words, named)[0]}, so its place is {named}")
            scene = scene.model_copy(update={"place": named})
        right.append(scene)
    return wrong, right


def stage_phrases(words: Words, stage: str) -> tuple[str, str]:
    """Where one is on the stage, and what the empty stage is called: ("in the forest", "a green forest")."""
    return words.places.get(stage, (f"in the {stage}", f"the {stage}"))
