"""The miniature's first library: 400 captioned clips of its world, worded as people would, each drawn when asked for.

Captions are as good as captions found on the web: inflected, vague ("turns round and round"), sometimes with the words
of one motion over the picture of another. So words alone do not find a motion's clips; the scorers must look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np

from engine.cutting import Captioned
from engine.miniature import words
from engine.miniature.stages import WIDTH
from engine.miniature.world import Clip, random_clip
from engine.video import encode_video

SEED = 4
FPS = 8
SHORT_FRAMES = 8  # of a clip that is too short to learn from
TALL_WIDTH = 48  # pixels, of 64 high: too narrow

# What people write for a motion, after the name of who does it; the first is the world's own.
PHRASES: dict[str, tuple[str, ...]] = {
    "stands still": ("stands still", "is standing still", "stays where it is", "does not move", "waits quietly",
                     "stands still and looks around"),
    "walks left": ("walks left", "is walking left", "is walking to the left", "strolls across to the left",
                   "goes to the left"),
    "walks right": ("walks right", "is walking right", "is walking to the right", "strolls across to the right",
                    "goes to the right"),
    "jumps up and down": ("jumps up and down", "is jumping up and down", "keeps jumping up and down",
                          "bounces up and down", "hops on the spot"),
    "flies up": ("flies up", "is flying up", "rises into the air", "floats up and away", "takes off"),
    "falls down": ("falls down", "is falling down", "drops down to the ground", "tumbles down", "comes down"),
    "dances": ("dances", "is dancing", "dances around", "sways from side to side", "rocks to the music"),
    "runs in circles": ("runs in circles", "is running in circles", "runs around in circles",
                        "is running around and around", "is circling around"),
    "spins around": ("spins around", "is spinning around", "spins round and round", "is spinning on the spot",
                     "turns round and round", "twirls around", "does one spin after another"),
    "zigzags across": ("zigzags across", "is zigzagging across", "moves across in a zigzag",
                       "zigzags from side to side", "goes across up and down in zigzags"),
    "grows bigger": ("grows bigger", "is growing bigger", "grows bigger and bigger", "grows and grows",
                     "is getting bigger", "becomes a giant"),
    "shrinks": ("shrinks", "is shrinking", "shrinks to a tiny size", "gets smaller and smaller",
                "keeps shrinking until it is tiny", "becomes tiny"),
    "bounces across": ("bounces across", "is bouncing across", "bounces along like a ball", "hops across",
                       "crosses in big bounces"),
    "swoops down": ("swoops down", "is swooping down", "swoops down and up again", "dives down in a swoop",
                    "glides down and comes up again"),
}  # fmt: skip

# Captions that name a library motion which the clip does not show: "a fox that loves to spin around waits quietly".
_INFINITIVE_GERUND = {
    "spins around": ("spin around", "spinning around"), "zigzags across": ("zigzag across", "zigzagging across"),
    "grows bigger": ("grow bigger", "growing bigger"), "shrinks": ("shrink", "shrinking"),
    "bounces across": ("bounce across", "bouncing across"), "swoops down": ("swoop down", "swooping down"),
}  # fmt: skip
_MISLEADING = (
    "{who} that loves to {infinitive} {does} {place}", "{who} {does} {place} before it starts {gerund}",
    "instead of {gerund} {who} {does} {place}", "{who} that can {infinitive} {does} {place}",
    "after {gerund} {who} {does} {place}",
)  # fmt: skip


class Recipe(NamedTuple):
    """One clip of the library: the motion it shows, the one its caption names, and what is wrong with its shape."""

    shows: str
    names: str
    flaw: str = ""  # "short", "tall" or nothing


def recipes() -> list[Recipe]:
    """All clips of the library in order: 36 good ones for each library motion and 14 for each other, 10 for each
    library motion whose caption misleads, and 2 whose shape is wrong."""
    made = [Recipe(m, m) for m in words.LIBRARY_MOTIONS for _ in range(36)]
    made += [Recipe(m, m) for m in words.BASE_MOTIONS for _ in range(14)]
    for n, named in enumerate(words.LIBRARY_MOTIONS):
        others = [m for m in words.MOTIONS if m != named]
        made += [Recipe(others[(5 * i + n) % len(others)], named) for i in range(10)]
        made += [Recipe(named, named, "short"), Recipe(named, named, "tall")]
    return made


class LibraryClips(Sequence[Captioned]):
    """The library's clips, each drawn and encoded when it is asked for (some 30 ms), always to the same bytes."""

    def __init__(self) -> None:
        self.recipes = recipes()

    def __len__(self) -> int:
        return len(self.recipes)

    @overload
    def __getitem__(self, index: int) -> Captioned: ...
    @overload
    def __getitem__(self, index: slice) -> list[Captioned]: ...
    def __getitem__(self, index: int | slice) -> Captioned | list[Captioned]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        recipe = self.recipes[index]
        rng = np.random.default_rng((SEED, index % len(self)))
        count = 2 if not recipe.flaw and rng.random() < 0.08 else 1
        clip = random_clip(rng, tuple(words.CHARACTERS), (recipe.shows,), count, changes=0)
        frames = clip.frames
        if recipe.flaw == "short":
            frames = frames[:SHORT_FRAMES]
        elif recipe.flaw == "tall":
            middle = float(clip.actors[0].boxes[:, [0, 2]].mean()) * WIDTH
            left = int(np.clip(middle - TALL_WIDTH / 2, 0, WIDTH - TALL_WIDTH))
            frames = frames[:, :, left : left + TALL_WIDTH]
        return Captioned(write_caption(rng, clip, recipe), encode_video(frames, FPS))


def library_clips() -> Sequence[Captioned]:
    """The clips that an empty library of the miniature is filled with."""
    return LibraryClips()


def write_caption(rng: np.random.Generator, clip: Clip, recipe: Recipe) -> str:
    """What somebody would write under the clip."""
    who = noun(rng, clip.actors[0].name)
    if len(clip.actors) > 1:
        who = f"{who} together with {words.article(clip.actors[1].name)}"
    place = words.STAGES[clip.stage][0]
    does = str(rng.choice(PHRASES[recipe.shows]))
    if recipe.names != recipe.shows:
        infinitive, gerund = _INFINITIVE_GERUND[recipe.names]
        template = str(rng.choice(_MISLEADING))
        return template.format(who=who, infinitive=infinitive, gerund=gerund, does=does, place=place)
    adverb = f" {rng.choice(words.ADVERBS)}" if rng.random() < 0.15 else ""
    return f"{place} {who} {does}{adverb}" if rng.random() < 0.15 else f"{who} {does}{adverb} {place}"


def noun(rng: np.random.Generator, name: str) -> str:
    """ "a fox", in three of ten with a word before it: "a brave fox"."""
    phrase = words.article(f"{rng.choice(words.ADJECTIVES)} {name}" if rng.random() < 0.3 else name)
    return phrase.replace(phrase.split()[0], "the", 1) if rng.random() < 0.1 else phrase


def vocabulary() -> list[str]:
    """Every word of the captions once, in a fixed order, the world's words first."""
    texts = [*words.vocabulary(), *(p for phrases in PHRASES.values() for p in phrases)]
    texts += [p for pair in _INFINITIVE_GERUND.values() for p in pair]
    texts += [template.format(who="", infinitive="", gerund="", does="", place="") for template in _MISLEADING]
    texts += ["together with person people animal something someone"]  # what a question may call the actor
    return list(dict.fromkeys(word for text in texts for word in text.split()))
