"""Small stories whose plan is known: what the miniature's planner is trained on.

A scene has a place and one to three actors; each does one thing, or one thing and then another. Whatever somebody
does in a sentence of its own is a scene, in the place of the scene before when the sentence names none; "beside it"
goes on with the scene. The same is said in many ways, with what misleads: others who are only spoken of, things that
do not happen, places where nobody is. No sentence of benchmarks/planner-sentences.jsonl may come from here.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any

from engine.miniature import words
from engine.miniature.asides import (
    ADVERBS,
    BESIDE,
    CLAUSES,
    FEELINGS,
    INTRODUCTIONS,
    MEETINGS,
    OPENINGS,
    OTHERS,
    SCENERY,
    SPOKEN_OF,
    UNDRAWN,
)  # fmt: skip
from engine.miniature.layout import Act, layout
from engine.miniature.sayings import PLACES, Form, infinitive, say_motion, say_place

NO_PLACE = "meadow"  # where a story happens that does not say


@dataclass
class SmallScene:
    """Its sentences, and what they mean. `home`: the stage that its opening names. `unsure`: whether the opening may
    name the scene's own."""

    stage: str
    home: str | None = None
    unsure: bool = False
    opening: list[str] = field(default_factory=list)  # before anything happens
    telling: list[str] = field(default_factory=list)
    closing: list[str] = field(default_factory=list)  # afterwards
    acts: list[Act] = field(default_factory=list)

    @property
    def sentences(self) -> list[str]:
        return [*self.opening, *self.telling, *self.closing]

    @property
    def narration(self) -> str:
        return " ".join(self.sentences)

    @property
    def motions(self) -> list[str]:
        return list(dict.fromkeys(act.motion for act in self.acts))


@dataclass
class SmallStory:
    """`characters`: those given by picture."""

    scenes: list[SmallScene]
    characters: list[str]

    @property
    def sentences(self) -> list[str]:
        return [sentence for scene in self.scenes for sentence in scene.sentences]

    def answer(self, first: int = 0, count: int | None = None) -> dict[str, Any]:
        """What level 1 of the planner should answer on `count` sentences from `first`: sentences that only describe
        apart, without motions, and where the story was before."""
        scenes: list[dict[str, Any]] = []
        last: tuple[int, str, int] | None = None
        for number, (part, stage, motions) in enumerate(self._told()[first:][:count], 1):
            if part == last and part[1] == "telling":
                scenes[-1]["sentences"].append(number)
                scenes[-1]["motions"] += [m for m in motions if m not in scenes[-1]["motions"]]
            else:
                scenes.append({"sentences": [number], "place": stage, "motions": motions})
            last = part
        return {"scenes": scenes}

    def unsure(self, sentence: int) -> bool:
        """Whether nobody has said which place, if any, the sentence names."""
        scene, part, _ = self._told()[sentence][0]
        return part == "opening" and self.scenes[scene].unsure

    def place_before(self, sentence: int) -> str:
        """Where the story is when this sentence begins; nothing at its beginning."""
        return self._told()[sentence - 1][1] if sentence else ""

    def _told(self) -> list[tuple[tuple[int, str, int], str, list[str]]]:
        """For each sentence its part of a scene, where it is, and the motions that it tells."""
        told: list[tuple[tuple[int, str, int], str, list[str]]] = []
        for n, scene in enumerate(self.scenes):
            stage = told[-1][1] if told else NO_PLACE
            told += [((n, "opening", k), scene.home or stage, []) for k in range(len(scene.opening))]
            for k in range(len(scene.telling)):
                motions = list(dict.fromkeys(act.motion for act in scene.acts if act.told == k))
                told.append(((n, "telling", 0), scene.stage, motions))
            told += [((n, "closing", k), scene.stage, []) for k in range(len(scene.closing))]
        return told


def scene_answer(scene: SmallScene) -> dict[str, Any]:
    """What level 2 of the planner should answer."""
    return {"regions": layout(scene.acts)}


def make_story(rng: random.Random, scenes: int) -> SmallStory:
    """A story of so many scenes. Places are carried over now and then, and characters come back, also as "it"."""
    given = rng.sample(OTHERS, rng.choice([0, 0, 0, 0, 1, 1, 2]))
    cast = [*given, *rng.sample(list(words.BASE_CHARACTERS), rng.randint(2, 4))]
    teller = _Teller(rng, cast, given, rng.random() < 0.55)
    for _ in range(scenes):
        teller.tell()
    return SmallStory(teller.scenes, given)


class _Teller:
    """Tells a story scene by scene."""

    def __init__(self, rng: random.Random, cast: list[str], given: list[str], past: bool) -> None:
        self.rng, self.cast, self.given = rng, cast, given
        self.tense: Form = "past" if past else "present"
        self.scenes: list[SmallScene] = []

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def said(self, motion: str, form: Form | None = None) -> str:
        return say_motion(self.rng, motion, form or self.tense)

    def it(self, name: str) -> str:
        """What a character is called when it is known who is meant: wizards are he, princesses she, the others vary."""
        if (who := {"wizard": "he", "princess": "she"}.get(name)) and self.chance(0.8):
            return who
        return self.rng.choice(["it", "it", "it", "he", "she"])

    def tense_of(self, present: str, past: str) -> str:
        return past if self.tense == "past" else present

    def motion(self, *but: str) -> str:
        return self.rng.choice([m for m in words.MOTIONS if m not in but])

    def tell(self) -> None:
        rng, before = self.rng, self.scenes[-1] if self.scenes else None
        carried = self.chance(0.3 if before else 0.06)  # the sentences do not say where
        stage = (before.stage if before else NO_PLACE) if carried else rng.choice(list(PLACES))
        names = rng.sample(self.cast, min(rng.choice([1, 1, 1, 1, 2, 2, 2, 3]), len(self.cast)))
        scene = SmallScene(stage)
        if not before and self.chance(0.25):
            self.introduce(scene, names[0])
            carried = scene.home is not None and self.chance(0.4)
            scene.stage = scene.home if carried and scene.home else stage
        place = "" if carried else say_place(rng, scene.stage)
        kind = rng.random()
        if kind < 0.03:  # only somebody whom nobody can draw, or nobody at all
            others = [other for other in OTHERS if other not in self.given]
            text = rng.choice([f"{self.noun(rng.choice(others))} {self.said(self.motion())}", "it was quiet"])
            self.add(scene, text, place)
        elif before and kind < 0.2 and self.again(scene, place):
            pass
        elif len(names) == 1:
            self.alone(scene, names[0], place)
        else:
            self.together(scene, names, place)
        if self.chance(0.08) and len(scene.acts) < 3:
            self.beside(scene)
        if not scene.opening and self.chance(0.28):
            scene.closing.append(self.comment(scene))
        self.scenes.append(scene)

    def introduce(self, scene: SmallScene, name: str) -> None:
        """A sentence before anything happens; it may say who lives where."""
        rng = self.rng
        form, home = rng.choice([*SCENERY[::3], *INTRODUCTIONS]), rng.choice([s for s in PLACES if s != "night"])
        text = form.format(who=words.article(name), place=say_place(rng, home))
        scene.opening.append(text[0].upper() + text[1:])
        if "{place}" in form:
            scene.home = home

    def alone(self, scene: SmallScene, name: str, place: str) -> None:
        rng, noun, kind = self.rng, self.noun(name), self.rng.random()
        if scene.opening and name in scene.opening[0] and self.chance(0.3):
            noun = self.it(name)
        if kind < 0.32:
            self.change(scene, name, noun, place)
            return
        motion = self.motion()
        scene.acts.append(Act(name, motion))
        if kind < 0.42:
            text = self.negated(name, noun, motion)
        elif kind < 0.49:
            text = f"there {self.tense_of('is', 'was')} {words.article(name)}{rng.choice([',', ''])} " + self.said(
                motion, "doing"
            )
        elif kind < 0.58:
            text = f"{noun} {self.tense_of('is', 'was')} {self.said(motion, 'doing')}"
        elif kind < 0.65:
            start = rng.choice(["begins to", "starts to", "wants to and does", "decides to", "has to", "loves to"])
            if self.tense == "past":
                start = rng.choice(["began to", "started to", "could not help but", "decided to", "had to"])
            text = f"{noun} {start.replace('wants to and does', 'begins to')} {self.said(motion, 'do')}"
        elif kind < 0.76:
            text = f"{noun}{self.aside()} {rng.choice(ADVERBS)} {self.said(motion)}"
        else:
            text = f"{noun}{self.aside()} {self.said(motion)}{rng.choice(['', '', ' ' + rng.choice(ADVERBS)])}"
        if self.chance(0.25):
            text = self.misled(text, name)
        self.add(scene, text, place)

    def change(self, scene: SmallScene, name: str, noun: str, place: str) -> None:
        """One thing and then another."""
        rng, it = self.rng, self.it(name)
        first = self.motion()
        second = self.motion(first)
        scene.acts = [Act(name, first, (1, 3)), Act(name, second, (4, 6))]
        a, b, is_ = self.said(first), self.said(second), self.tense_of("is", "was")
        doing, begins = self.said(first, "doing"), self.tense_of("begins", "began")
        do = self.said(second, "do")
        text = rng.choice([
            f"{noun} {a} and then {b}", f"{noun} {a} and then {b}", f"{noun} {a}, then {b}",
            f"first {noun} {a}, then {it} {b}",
            f"{noun} first {a} and afterwards {b}", f"{noun} {a} until {it} {b}", f"{noun} {a} before {it} {b}",
            f"after {doing}, {noun} {b}", f"after {doing} for a while, {noun} {b}",
            f"{noun} {a} and then {begins} to {do}",
            f"{noun} {is_} {doing} when suddenly {it} {b}", f"{noun} {is_} {doing}, but then {it} {b}",
            f"{noun} {a}, {self.tense_of('stops', 'stopped')} and {b}", f"{noun} {a} and at last {b}",
            f"{noun} {a}, and after that {it} {b}", f"{noun} {a} and {b}", f"{noun} {a} and, a moment later, {b}",
        ])  # fmt: skip
        others = [other for other in self.cast if other != name]
        if others and self.chance(0.15):
            other, does = rng.choice(others), self.motion()
            text += (
                f"{rng.choice([' while', ', and all the while', ';', ', but'])} {self.noun(other)} {self.said(does)}"
            )
            scene.acts.append(Act(other, does))
        self.add(scene, text, place)

    def together(self, scene: SmallScene, names: list[str], place: str) -> None:
        rng, nouns = self.rng, [self.noun(name) for name in names]
        if len(names) == 2 and self.chance(0.08):
            scene.acts = [Act(names[0], "walks right"), Act(names[1], "walks left")]
            self.add(scene, f"{nouns[0]} and {nouns[1]} {rng.choice(MEETINGS[self.tense])}", place)
            return
        motions = [self.motion() for _ in names]
        if self.chance(0.2):  # all do the same
            motions = [motions[0]] * len(names)
            said = _plural(self.said(motions[0], "past" if self.tense == "past" else "do"))
            scene.acts = [Act(name, motions[0]) for name in names]
            who = f"{', '.join(nouns[:-1])} and {nouns[-1]}"
            self.add(scene, f"{who} {rng.choice(['', '', 'both ' if len(names) == 2 else 'all '])}{said}"
                            f"{rng.choice(['', ' together', ' side by side'])}", place)  # fmt: skip
            return
        scene.acts = [Act(name, motion) for name, motion in zip(names, motions, strict=True)]
        parts = [
            self.negated(name, noun, motion) if self.chance(0.07) else f"{noun}{self.aside(0.08)} {self.said(motion)}"
            for name, noun, motion in zip(names, nouns, motions, strict=True)
        ]
        if len(parts) == 3:
            self.add(scene, f"{parts[0]}, {parts[1]}{rng.choice(['', ','])} and {parts[2]}", place)
            return
        if self.chance(0.12):
            side = rng.choice([-1, 1])
            scene.acts[0].side, scene.acts[1].side = side, -side
            sides = ["on the left", "on the right"][::-side]
            parts = [f"{where} {part}" for where, part in zip(sides, parts, strict=True)]
        a, b = parts
        if self.chance(0.15):  # the place in the middle
            self.add(scene, f"{a} {place} and {b}" if place else f"{a} and {b}", "")
            return
        if self.chance(0.06):
            b = f"{nouns[1]} {self.tense_of('does', 'did')} {rng.choice(['the same', 'so, too', 'likewise'])}"
            scene.acts[1].motion = motions[0]
        form = rng.choice(["{a} and {b}", "{a}, and {b}", "{a} while {b}", "while {a}, {b}", "{a} as {b}", "{a}; {b}",
                           "{a}, but {b}", "as {a}, {b}", "{a}, and next to it {b}",
                           "{a}. At the same time {b}"])  # fmt: skip
        text = form.format(a=a, b=b)
        self.add(scene, self.misled(text, *names) if self.chance(0.1) else text, place)
        scene.acts[-1].told = len(scene.telling) - 1  # "At the same time" is a sentence of its own

    def again(self, scene: SmallScene, place: str) -> bool:
        """Those of the scene before, called "it" or "they"; or both of whom each had a scene of its own."""
        rng = self.rng
        casts = [list(dict.fromkeys(act.name for act in scene.acts)) for scene in self.scenes[-2:]]
        names = casts[-1]
        if len(casts) == 2 and len(casts[0]) == len(names) == 1 and casts[0] != names and self.chance(0.4):
            names = [*casts[0], *names]
        if len(names) == 1:
            it, kind = self.it(names[0]), rng.random()
            if kind < 0.2:
                self.change(scene, names[0], it, place)
                return True
            motion = self.motion()
            scene.acts = [Act(names[0], motion)]
            said = self.said(motion)
            text = self.negated(names[0], it, motion) if kind < 0.35 else f"{it} {said}"
            if 0.35 < kind < 0.5:
                text = f"then {it} {said}"
            elif 0.5 < kind < 0.6:
                text = f"{it} {self.tense_of('begins', 'began')} to {self.said(motion, 'do')}"
            self.add(scene, self.misled(text, names[0]) if self.chance(0.15) else text, place)
            return True
        if len(names) != 2:
            return False
        who = rng.choice(["they", "they", "both of them", "the two", "the two of them", "they both"])
        if self.chance(0.25):
            text, motions = f"{who} {rng.choice(MEETINGS[self.tense])}", ["walks right", "walks left"]
        else:
            motions = [self.motion()] * 2
            text = f"{who} {_plural(self.said(motions[0], 'past' if self.tense == 'past' else 'do'))}"
        scene.acts = [Act(name, motion) for name, motion in zip(names, motions, strict=True)]
        self.add(scene, text, place)
        return True

    def beside(self, scene: SmallScene) -> None:
        """One more, in a sentence of its own."""
        free = [name for name in self.cast if name not in {act.name for act in scene.acts}]
        if not free or any(act.frames != (1, 6) for act in scene.acts) or not scene.acts:
            return
        name, motion = self.rng.choice(free), self.motion()
        scene.acts.append(Act(name, motion, told=len(scene.telling)))
        scene.telling.append(f"{self.rng.choice(BESIDE)} {self.noun(name)} {self.said(motion)}.")

    def negated(self, name: str, noun: str, motion: str) -> str:
        """What happens, and something else that does not."""
        rng, other = self.rng, self.motion(motion)
        it = self.it(name)
        does, is_ = self.tense_of("does", "did"), self.tense_of("is", "was")
        do, doing, said = self.said(other, "do"), self.said(other, "doing"), self.said(motion)
        forms = [
            f"{noun} {does} not {do}, {it} {said}", f"{noun} {does}n't {do}; {it} {said}",
            f"{noun} {does} not {do} but {said}", f"{noun} {is_} not {doing}, {it} {is_} {self.said(motion, 'doing')}",
            f"{noun} {is_}n't {doing}: {it} {said}", f"instead of {doing}, {noun} {said}",
            f"without {doing}, {noun} {said}", f"{noun} never {self.said(other)}, {it} {said}",
            f"{noun} {self.tense_of('cannot', 'could not')} {do}, so {it} {said}",
            f"{noun} {self.tense_of('wants', 'wanted')} to {do}, but {it} only {said}",
            f"{noun} no longer {self.said(other)}: now {it} {said}",
            f"{noun} {self.tense_of('refuses', 'refused')} to {do} and {said}", f"{noun} {said} instead of {doing}",
            f"{noun} {said} and {does} not {do}", f"{noun} {said}, {it} {does} not {do}",
        ]  # fmt: skip
        absent = [a for a in words.BASE_CHARACTERS if a not in (name, noun)]
        if noun != it and noun[:3].strip() not in ("it", "he", "she"):
            who = rng.choice(absent)
            forms += [f"not the {who} but {noun} {said}", f"it {is_} not the {who} but {noun} that {said}"]
        return rng.choice(forms)

    def misled(self, text: str, *names: str) -> str:
        """The same with somebody in it who is spoken of, or whom nobody can draw, and who is not there."""
        rng = self.rng
        if rng.random() < 0.5:
            unseen = [other for other in UNDRAWN if not any(given in other for given in self.given)]
            clause = rng.choice(unseen)[self.tense == "past"]
            form = rng.choice(["{text} while {clause}", "{clause}, but {text}", "{clause}, and {text}",
                               "as {clause}, {text}", "while {clause}, {text}"])  # fmt: skip
            return form.format(text=text, clause=clause)
        who = rng.choice([name for name in words.BASE_CHARACTERS if name not in names])
        spoken = rng.choice(SPOKEN_OF).format(who=who, a=words.article(who))
        return f"{text}, {spoken}" if self.chance(0.5) else f"{spoken}, {text}"

    def comment(self, scene: SmallScene) -> str:
        """A sentence in which nobody does anything that can be seen."""
        rng, names = self.rng, [act.name for act in scene.acts]
        if not names or self.chance(0.4):
            return rng.choice(SCENERY)
        it = self.it(names[0]).capitalize() if len(set(names)) == 1 else "They"
        absent = [name for name in self.cast if name not in names]
        who = it if self.chance(0.5) else f"The {rng.choice(absent if absent and self.chance(0.3) else names)}"
        text = rng.choice(FEELINGS[self.tense]).format(other=rng.choice(list(words.BASE_CHARACTERS)))
        if who == "They":
            verb, _, rest = text.partition(" ")
            many = {"was": "were", "is": "are", "has": "have"}.get(verb)
            text = f"{many or (infinitive(verb) if verb.endswith('s') else verb)} {rest}"
        return f"{who} {text}{rng.choice(['.', '.', '!'])}"

    def noun(self, name: str) -> str:
        rng = self.rng
        said = name
        if self.chance(0.3):
            said = f"{rng.choice(words.ADJECTIVES)} {said}"
        chance = rng.random()
        if chance < 0.04:
            return f"{words.article(said)} called {rng.choice(['Max', 'Lulu', 'Bobo', 'Tim', 'Zara', 'Otto'])}"
        if chance < 0.08:
            return f"{rng.choice(['our', 'my', 'her', 'this', 'that'])} {said}"
        return f"the {said}" if chance < 0.54 else words.article(said)

    def aside(self, share: float = 0.15) -> str:
        """ ", who was tired," or nothing."""
        if not self.chance(share):
            return ""
        other = self.rng.choice(list(words.BASE_CHARACTERS))
        clause = self.rng.choice(CLAUSES[self.tense])
        if "{" in clause and other in self.cast:
            clause = "who was very small"
        return f", {clause.format(other=other, a=words.article(other))},"

    def add(self, scene: SmallScene, text: str, place: str) -> None:
        """The text as a sentence, with its place, and perhaps with another where nobody is."""
        rng, chance = self.rng, self.rng.random()
        if place and scene.stage != "night" and self.chance(0.08):
            elsewhere = say_place(rng, rng.choice([s for s in PLACES if s not in (scene.stage, "night")]))
            place = rng.choice([f"not {elsewhere} but {place}", f"{place}, far from home",
                                f"no longer {elsewhere} but {place}",
                                f"{place}, where it was quiet", f"far away, {place}", f"back {place}"])  # fmt: skip
        if place and chance < 0.4:
            text = f"{place}{rng.choice([',', ',', ''])} {text}"
        elif place:
            text = f"{text} {place}"
        if chance > 0.78 or (chance < 0.4 and self.chance(0.15)):
            text = f"{rng.choice(OPENINGS)}{rng.choice([',', ''])} {text}"
        sentences = re.split(r"(?<=\.) ", text[0].upper() + text[1:])
        end = rng.choice([".", ".", ".", ".", "!"])
        scene.telling += [*sentences[:-1], sentences[-1] + end]


def _plural(said: str) -> str:
    for one, many in (("its own", "their own"), ("it is", "they are"), ("it was", "they were"), ("it can", "they can"),
                      ("it could", "they could"), ("where they is", "where they are"),
                      ("itself", "themselves")):  # fmt: skip
        said = said.replace(one, many)
    return said
