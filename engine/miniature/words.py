"""Everything the miniature's world can name: its cast, its stages and its motions, with the words for each.

The base video model learns `BASE_CHARACTERS` and `BASE_MOTIONS`. The rest exists so that priors have something to
learn: those characters are known only by a reference image, those motions only by clips in the library.
"""

from __future__ import annotations

BASE_CHARACTERS = {
    "fox": "🦊", "robot": "🤖", "penguin": "🐧", "pig": "🐷", "frog": "🐸", "lion": "🦁",
    "panda": "🐼", "octopus": "🐙", "ladybug": "🐞", "chick": "🐥", "wizard": "🧙", "fish": "🐟",
    "owl": "🦉", "rabbit": "🐰", "elephant": "🐘", "princess": "👸",
}  # fmt: skip
NEW_CHARACTERS = {"ghost": "👻", "pumpkin": "🎃", "dragon": "🐉", "bee": "🐝"}
CHARACTERS = {**BASE_CHARACTERS, **NEW_CHARACTERS}

BASE_MOTIONS = (
    "stands still", "walks left", "walks right", "jumps up and down",
    "flies up", "falls down", "dances", "runs in circles",
)  # fmt: skip
LIBRARY_MOTIONS = ("spins around", "zigzags across", "grows bigger", "shrinks", "bounces across", "swoops down")
MOTIONS = BASE_MOTIONS + LIBRARY_MOTIONS

# stage -> the phrase that places an actor on it, and what an empty stage is called
STAGES = {
    "forest": ("in the forest", "a green forest"),
    "beach": ("on the beach", "a sunny beach"),
    "night": ("under the night sky", "a dark night sky"),
    "snow": ("in the snow", "a field of snow"),
    "desert": ("in the desert", "a wide desert"),
    "city": ("in the city", "a busy city"),
    "meadow": ("in the meadow", "a meadow with flowers"),
    "sea": ("under the sea", "the bottom of the sea"),
}

# Words a person may put around the ones above; training sprinkles them so that they do no harm.
ADJECTIVES = (
    "little", "big", "happy", "sad", "old", "young", "brave", "tired", "friendly", "funny",
    "clever", "lonely", "proud", "lost", "quiet", "busy", "curious", "magic",
)  # fmt: skip
ADVERBS = ("slowly", "quickly", "happily", "again", "alone", "together", "proudly", "suddenly")
POSITIONS = ("on the left", "in the middle", "on the right")
GLUE = ("a", "an", "the", "and", "then", "is", "of", "with", "at", "to", "from", "it", "by", "near", "empty", "while")
SUBJECT_TOKENS = tuple(f"[v{n}]" for n in range(1, 9))


def article(noun_phrase: str) -> str:
    """The noun phrase with its indefinite article: "an old fox"."""
    return f"{'an' if noun_phrase[0] in 'aeiou' else 'a'} {noun_phrase}"


def caption(character: str, motion: str, stage: str) -> str:
    """One actor's caption, in the form the model was trained on: entity, motion, background (paper, plan rules)."""
    return f"{article(character)} {motion} {STAGES[stage][0]}"


def vocabulary() -> list[str]:
    """Every word of the world once, in a fixed order; the tokenizer's ids follow from it."""
    phrases: list[str] = [*CHARACTERS, *MOTIONS, *ADJECTIVES, *ADVERBS, *POSITIONS, *GLUE]
    for place, empty in STAGES.values():
        phrases += [place, empty]
    phrases += list(STAGES)
    return list(dict.fromkeys(word for phrase in phrases for word in phrase.split()))
