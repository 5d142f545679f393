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
# who is named by what they are
DESCRIPTIONS = re.compile(
    r"\bthe ([\w'’-]+ )?(animal|bear|beast|beetle|bird|cat|creature|dancer|daughter|insect|machine|magician|newcomer|"
    r"passenger|stranger|winner)\b",
    re.IGNORECASE,
)
DETERMINERS = re.compile(r"an?|the|this|that|his|her|its|their|every|each|some", re.IGNORECASE)  # before a noun
STILL = "stands still"  # what somebody does who does nothing else
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
IN = r"\b(in|into|through|across|under)( the| an?)?( \w+)? {0}\b(?!-)|\bat {0}\b(?!-)"  # a place
NEAR = (  # what is found there
    r"\b(in|into|through|across|under|at|on|onto|to|beneath|among|between|along|by|past|beside|behind|a?round)"
    r"( the| an?)?( \w+)? ({0})\b(?![-'’])"
)
QUOTED = re.compile(r"[\"“][^\"“”]*[\"”]")  # what somebody says is not seen
ASIDE = re.compile(r", (who|which|that|whose|whom|where)\b[^,.;:!?]*", re.IGNORECASE)  # ", who had never met the owl"
# somebody, {}, who is only spoken of: "of its old friend the owl", "the owl's", "owl-sized"
OF = (
    r"\b(of|about|from|(un)?like|than|for|as \w+ as|dream(s|t|ed|ing)? that)"
    r"( (?!(and|left|right)\b)[\w’'-]+){{0,4}} {0}(s|es)?\b"
    r"|(?<=, )\w+ as an? (\w+ )?{0}\b"  # ", slow as an elephant"
    r"|\b{0}(['’]s\b|-\w| size\b)"
)
# "a story about a fox who had danced with a princess"
TALE = re.compile(r"\b(book|dream|film|legend|poem|song|story|tale)s? (about|of|that)\b[^,.;:!?]*", re.IGNORECASE)

# "it met an elephant that was spinning around"
MEETS_BUSY = re.compile(
    r"\b(meets?|met|finds|found|c[ao]mes? (across|upon)|bump(s|ed) into)"
    r"( [\w'’-]+){1,4},? (who|that|which) (is|was|are|were)\b",
    re.IGNORECASE,
)
# what stands before that when they do something else first ("it ran until", "strolling home, it")
ON_THE_WAY = re.compile(r"\b(and|until|till|when|while|after|before|having|who|that)\b|^\w+ing\b|[;:]", re.IGNORECASE)
WALKS = ("walks right", "walks left")


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
    text = TALE.sub(" ", ASIDE.sub(" ", QUOTED.sub(" ", text)))
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


def check_outline(scenes: list[StoryScene], sentences: list[str], words: Words | None) -> list[StoryScene]:
    """The scenes, when they hold every sentence once and in order, each in the place that its sentences name. Raises
    Repairable with that put right, and Refused for a scene of too many letters.

    Places bind models of few words alone. With these, scenes without a motion only describe and join their neighbours;
    one that reads any text may show an empty street.
    """
    reasons, done, certain = [], [], True
    if reason := _disorder(scenes, len(sentences)):
        scenes, certain = _in_order(scenes, len(sentences)), False
        reasons.append(reason)
        done.append("sentences given to the scenes in order")
    if words:
        scenes = [_beside_the_busy(_with_said_motions(scene, sentences, words), sentences) for scene in scenes]
        scenes = joined(scenes, sentences)
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


def _beside_the_busy(scene: StoryScene, sentences: list[str]) -> StoryScene:
    """Who meets somebody that is busy stands still, where the model has them walk as two who meet do."""
    for sentence in (sentences[n - 1] for n in scene.sentences):
        met = MEETS_BUSY.search(sentence)
        if met and len(scene.motions) > 1 and not ON_THE_WAY.search(sentence[: met.start()]):
            motions = [STILL if n == 0 and m in WALKS else m for n, m in enumerate(scene.motions)]
            return scene.model_copy(update={"motions": list(dict.fromkeys(motions))})
    return scene


def joined(scenes: list[StoryScene], sentences: list[str]) -> list[StoryScene]:
    """The scenes, those without a motion being part of the one before, at the beginning of the one after. What begins
    with "At the same time" or "Beside it" goes on with the one before. When none of all has a motion, all stay."""
    if not any(scene.motions for scene in scenes):
        return scenes
    out: list[StoryScene] = []
    waiting: list[int] = []
    for scene in scenes:
        told = [*waiting, *scene.sentences]
        quiet = [*waiting, *(scene.quiet if scene.motions else scene.sentences)]
        if out and (not scene.motions or _goes_on(scene, sentences, out[-1])):
            last = out[-1]
            both: dict[str, Any] = {"sentences": [*last.sentences, *told], "quiet": [*last.quiet, *quiet]}
            both["motions"] = list(dict.fromkeys([*last.motions, *scene.motions]))
            out[-1] = last.model_copy(update=both)
        elif scene.motions:
            out.append(scene.model_copy(update={"sentences": told, "quiet": quiet}))
        waiting = [] if out else told
    return out


def _goes_on(scene: StoryScene, sentences: list[str], before: StoryScene) -> bool:
    """Whether the scene is one shot with the one before, by its first words."""
    count = len(dict.fromkeys([*before.motions, *scene.motions]))
    first = sentences[next(n for n in scene.sentences if n not in scene.quiet) - 1]
    return scene.place == before.place and count <= MAX_REGIONS and bool(GOES_ON.match(first))


def place_named(sentences: list[str], words: Words) -> str | None:
    """The one place that the sentences name in the bundle's own words ("in the forest", "through the snow") or by what
    is found there alone ("between the corals"). What a sentence with a negation names is left alone."""
    told = " ".join(sentence.lower() for sentence in sentences if not NEGATION.search(sentence))

    def names(stage: str) -> bool:
        landmarks = "|".join(re.escape(noun) for noun in words.landmarks.get(stage, ()))
        return bool(
            stage_phrases(words, stage)[0] in told
            or re.search(IN.format(re.escape(stage)), told)
            or (landmarks and re.search(NEAR.format(landmarks), told))
        )

    named = [stage for stage in words.stages if names(stage)]
    return named[0] if len(named) == 1 else None


def _by_place(scenes: list[StoryScene], sentences: list[str], words: Words) -> list[StoryScene]:
    """Scenes whose sentences go from one named place to another are divided there: a scene is one shot in one place."""
    out: list[StoryScene] = []
    for scene in scenes:
        parts: list[list[int]] = [[]]
        here = None
        for number in scene.sentences:
            named = place_named([sentences[number - 1]], words)
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
        named = place_named([sentences[k - 1] for k in scene.sentences], words)
        if named and scene.place != named:
            wrong.append(f"scene {n} is {stage_phrases(words, named)[0]}, so its place is {named}")
            scene = scene.model_copy(update={"place": named})
        right.append(scene)
    return wrong, right


def stage_phrases(words: Words, stage: str) -> tuple[str, str]:
    """Where one is on the stage, and what the empty stage is called: ("in the forest", "a green forest")."""
    return words.places.get(stage, (f"in the {stage}", f"the {stage}"))
