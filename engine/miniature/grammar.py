"""Small stories whose plan is known: what the miniature's planner is trained on.

A scene has a place and one to three actors; each does one thing, or one thing and then another. The same is said in
many ways; boxes follow the method's rules (sides of at least 20 percent, everybody in a place of their own, small
steps).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any

from engine.miniature import words

# How each motion may be said: present/past/-ing of the verb, then the rest.
MOTIONS: dict[str, tuple[str, ...]] = {
    "stands still": (
        "stands/stood/standing still", "waits/waited/waiting", "rests/rested/resting",
        "stays/stayed/staying where it is", "keeps/kept/keeping perfectly still", "watches/watched/watching",
        "sits/sat/sitting quietly", "sleeps/slept/sleeping", "looks/looked/looking on", "listens/listened/listening",
        "does/did/doing not move", "stops/stopped/stopping to think",
    ),
    "walks left": (
        "walks/walked/walking to the left", "strolls/strolled/strolling left", "heads/headed/heading left",
        "wanders/wandered/wandering off to the left", "comes/came/coming in from the right",
        "turns/turned/turning back", "marches/marched/marching towards the left side", "goes/went/going back home",
        "walks/walked/walking back", "tiptoes/tiptoed/tiptoeing left", "hurries/hurried/hurrying home",
        "runs/ran/running to the left",
    ),
    "walks right": (
        "walks/walked/walking to the right", "sets/set/setting out", "walks/walked/walking",
        "wanders/wandered/wandering along", "marches/marched/marching on", "strolls/strolled/strolling right",
        "goes/went/going for a walk", "hurries/hurried/hurrying to the right", "trots/trotted/trotting along",
        "comes/came/coming in from the left", "heads/headed/heading right", "runs/ran/running to the right",
        "goes/went/going on its way",
    ),
    "jumps up and down": (
        "jumps/jumped/jumping up and down", "hops/hopped/hopping on the spot", "leaps/leapt/leaping for joy",
        "jumps/jumped/jumping with excitement", "hops/hopped/hopping up and down", "keeps/kept/keeping jumping",
        "jumps/jumped/jumping again and again", "bounces/bounced/bouncing up and down", "jumps/jumped/jumping high",
        "leaps/leapt/leaping into the air and comes down again",
    ),
    "flies up": (
        "flies/flew/flying up", "rises/rose/rising into the air", "takes/took/taking off",
        "soars/soared/soaring into the sky", "floats/floated/floating upwards",
        "lifts/lifted/lifting off the ground", "flies/flew/flying away into the clouds",
        "drifts/drifted/drifting up like a balloon", "climbs/climbed/climbing higher into the sky",
        "goes/went/going up and up",
    ),
    "falls down": (
        "falls/fell/falling down", "tumbles/tumbled/tumbling from the sky", "drops/dropped/dropping to the ground",
        "plunges/plunged/plunging down", "sinks/sank/sinking down", "crashes/crashed/crashing from above",
        "falls/fell/falling out of the sky", "comes/came/coming down to the ground", "tumbles/tumbled/tumbling down",
        "lands/landed/landing with a bump",
    ),
    "dances": (
        "dances/danced/dancing", "sways/swayed/swaying to the music", "wiggles/wiggled/wiggling to a song",
        "does/did/doing a little dance", "waltzes/waltzed/waltzing", "rocks/rocked/rocking from side to side",
        "moves/moved/moving to the rhythm", "dances/danced/dancing with joy", "begins/began/beginning to dance",
        "swings/swung/swinging to the beat",
    ),
    "runs in circles": (
        "runs/ran/running in circles", "races/raced/racing round and round", "chases/chased/chasing its own tail",
        "goes/went/going round and round", "runs/ran/running laps", "dashes/dashed/dashing around in a ring",
        "circles/circled/circling around", "runs/ran/running round in a big loop",
        "hurries/hurried/hurrying in circles",
    ),
    "spins around": (
        "spins/spun/spinning around", "twirls/twirled/twirling on the spot", "turns/turned/turning like a top",
        "whirls/whirled/whirling around itself", "spins/spun/spinning like a wheel",
        "spins/spun/spinning on the spot", "twirls/twirled/twirling", "turns/turned/turning head over heels",
        "spins/spun/spinning until it is dizzy",
    ),
    "zigzags across": (
        "zigzags/zigzagged/zigzagging across", "weaves/wove/weaving from side to side",
        "darts/darted/darting here and there", "swerves/swerved/swerving up and down along the way",
        "moves/moved/moving in a zigzag", "darts/darted/darting this way and that",
        "zigzags/zigzagged/zigzagging along", "crosses/crossed/crossing in sharp turns",
    ),
    "grows bigger": (
        "grows/grew/growing bigger", "becomes/became/becoming larger and larger", "swells/swelled/swelling up",
        "grows/grew/growing and growing", "gets/got/getting huge", "turns/turned/turning into a giant",
        "becomes/became/becoming very big", "grows/grew/growing as tall as a house",
        "gets/got/getting bigger and bigger",
    ),
    "shrinks": (
        "shrinks/shrank/shrinking", "becomes/became/becoming smaller and smaller", "gets/got/getting tiny",
        "shrinks/shrank/shrinking to the size of a pea", "grows/grew/growing smaller",
        "becomes/became/becoming very small", "gets/got/getting smaller and smaller",
        "shrinks/shrank/shrinking away",
    ),
    "bounces across": (
        "bounces/bounced/bouncing across", "bounces/bounced/bouncing along like a ball",
        "hops/hopped/hopping across", "springs/sprang/springing from one side to the other",
        "bounds/bounded/bounding along", "leaps/leapt/leaping across in big jumps", "skips/skipped/skipping along",
        "hops/hopped/hopping along the way",
    ),
    "swoops down": (
        "swoops/swooped/swooping down", "dives/dived/diving down and up again",
        "glides/glided/gliding down in a wide curve", "sweeps/swept/sweeping low over the ground",
        "dips/dipped/dipping down and rises again", "swoops/swooped/swooping low",
        "dives/dived/diving from the sky and rises again", "swoops/swooped/swooping over the ground",
    ),
}  # fmt: skip

PLACES: dict[str, tuple[str, ...]] = {
    "forest": ("in the forest", "through the woods", "among the trees", "in the deep woods", "between the old oaks",
               "through the forest", "in a green wood", "between the bushes", "under the tall firs"),
    "beach": ("on the beach", "at the seaside", "on the sand by the waves", "on the shore", "by the sea",
              "along the coast", "on a sunny beach", "by the water's edge", "near the lighthouse"),
    "night": ("at night", "under the stars", "in the moonlight", "under the night sky", "after dark",
              "in the middle of the night", "by the light of the moon", "beneath the moon", "when all were asleep"),
    "snow": ("in the snow", "on a snowy field", "in the cold white winter", "on the ice", "through the snow",
             "among the snowflakes", "in a winter land", "on the icy mountain", "in a blizzard"),
    "desert": ("in the desert", "on the hot dry sand", "beside a cactus", "under the burning sun", "through the desert",
               "in the hot dry land", "between the sand hills", "near the pyramids"),
    "city": ("in the city", "in town", "on the street", "between the tall buildings", "downtown", "in the busy streets",
             "through the city", "among the houses", "on the town square"),
    "meadow": ("in the meadow", "among the flowers", "on the grass", "in a field of daisies", "on a green hill",
               "in the garden", "across the meadow", "in the park", "in the green fields"),
    "sea": ("under the sea", "under water", "on the sea floor", "deep in the ocean", "among the corals",
            "below the waves", "at the bottom of the sea", "beside a sunken ship", "in the deep blue water"),
}  # fmt: skip
NO_PLACE = "meadow"  # where a story happens that does not say

# Nobody draws these unless the story gives their picture: then they are on its list of characters.
OTHERS = (
    *words.NEW_CHARACTERS, "unicorn", "knight", "snail", "cat", "dog", "turtle", "girl", "boy", "mouse", "horse",
    "astronaut", "bear", "bird", "teacher", "pirate", "duck",
)  # fmt: skip
SCENERY = (
    "The sun was shining.", "It was cold.", "The wind was blowing.", "It was a beautiful day.", "Everything was quiet.",
    "Nobody else was there.", "The air smelled of summer.", "A bell rang far away.", "What a day it was!",
    "The clouds were grey.", "Leaves were rustling.", "Soft music was playing.", "How strange it all was!",
)  # fmt: skip
OPENINGS = ("One day", "Once upon a time", "Early in the morning", "Later", "The next day", "Suddenly", "After that",
            "Soon", "In the end", "A moment later", "At last")  # fmt: skip
EXTRAS = ("", "", "", "", " happily", " slowly", " all alone", " as fast as it could", " with a smile", " once more",
          " all by itself", " for a while", " without a sound")  # fmt: skip
MEETINGS = ("met", "ran towards each other", "came together", "walked up to each other", "went to meet each other")


@dataclass
class Act:
    """`frames`: first and last keyframe."""

    name: str
    motion: str
    frames: tuple[int, int] = (1, 6)


@dataclass
class SmallScene:
    """Its sentences, and what they mean."""

    stage: str
    sentences: list[str] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)

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

    def answer(self) -> dict[str, Any]:
        """What level 1 of the planner should answer."""
        scenes, number = [], 1
        for scene in self.scenes:
            numbers = list(range(number, number + len(scene.sentences)))
            scenes.append({"sentences": numbers, "place": scene.stage, "motions": scene.motions})
            number += len(numbers)
        return {"scenes": scenes}


def make_story(rng: random.Random, scenes: int) -> SmallStory:
    """A story of so many scenes. Places are carried over now and then, and characters come back, also as "it"."""
    given = rng.sample(OTHERS, rng.choice([0, 0, 0, 1, 1, 2]))
    cast = [*given, *rng.sample(list(words.BASE_CHARACTERS), rng.randint(2, 4))]
    past = rng.random() < 0.7
    made: list[SmallScene] = []
    for _ in range(scenes):
        made.append(_make_scene(rng, cast, given, made[-2:], past))
    return SmallStory(made, given)


def _make_scene(
    rng: random.Random, cast: list[str], given: list[str], earlier: list[SmallScene], past: bool
) -> SmallScene:
    before = earlier[-1] if earlier else None
    carried = rng.random() < (0.25 if before else 0.08)  # the sentences do not say where
    stage = (before.stage if before else NO_PLACE) if carried else rng.choice(list(PLACES))
    place = "" if carried else rng.choice(PLACES[stage])
    if not carried and place and rng.random() < 0.1 and stage != "night":
        place = rng.choice([f"{place}, where it was quiet", f"far away, {place}", f"back {place}"])
    scene = SmallScene(stage)
    names = rng.sample(cast, min(rng.choice([1, 1, 1, 2, 2, 2, 3]), len(cast)))
    chance = rng.random()
    if chance < 0.07:  # only somebody whom nobody can draw, or nobody at all
        others = [other for other in OTHERS if other not in given]
        text = rng.choice(
            [f"{_noun(rng, rng.choice(others))} {_verb(rng, rng.choice(words.MOTIONS), past)}", "it was quiet"]
        )
        scene.sentences.append(_sentence(rng, text, place))
        return scene
    if before and chance < 0.22 and (again := _again(rng, earlier, place, past)):
        scene.sentences, scene.acts = again
    elif len(names) == 1:
        _alone(rng, scene, names[0], place, past)
    else:
        _together(rng, scene, names, place, past)
    if rng.random() < 0.15 and len(scene.acts) < 3:
        _beside(rng, scene, cast, past)
    if rng.random() < 0.2:
        first = before is None and rng.random() < 0.5  # later it would as well belong to the scene before
        scene.sentences.insert(0 if first else len(scene.sentences), rng.choice(SCENERY))
    return scene


def _alone(rng: random.Random, scene: SmallScene, name: str, place: str, past: bool) -> None:
    motion = rng.choice(words.MOTIONS)
    noun, said = _noun(rng, name), _verb(rng, motion, past)
    scene.acts.append(Act(name, motion))
    if rng.random() < 0.2:  # one thing and then another
        second = rng.choice([m for m in words.MOTIONS if m != motion])
        later = _verb(rng, second, past)
        scene.acts = [Act(name, motion, (1, 3)), Act(name, second, (4, 6))]
        if rng.random() < 0.5:
            link = rng.choice(["and then", "and", ", then"]) if past else "and then"
            scene.sentences.append(_sentence(rng, f"{noun} {said} {link} {later}".replace(" ,", ","), place))
        else:
            scene.sentences += [_sentence(rng, f"{noun} {said}", place), f"Then it {later}."]
        return
    text = f"{noun} {said}{rng.choice(EXTRAS)}"
    if rng.random() < 0.12:
        text = f"there {'was' if past else 'is'} {words.article(name)} {_verb(rng, motion, past, doing=True)}"
    elif rng.random() < 0.08:
        text = f"{noun}, who was {rng.choice(words.ADJECTIVES[:10])}, {said}"
    scene.sentences.append(_sentence(rng, text, place))


def _together(rng: random.Random, scene: SmallScene, names: list[str], place: str, past: bool) -> None:
    nouns = [_noun(rng, name) for name in names]
    if len(names) == 2 and past and rng.random() < 0.12:
        scene.acts = [Act(names[0], "walks right"), Act(names[1], "walks left")]
        scene.sentences.append(_sentence(rng, f"{nouns[0]} and {nouns[1]} {rng.choice(MEETINGS)}", place))
        return
    if past and rng.random() < 0.2:  # all do the same
        motion = rng.choice(words.MOTIONS)
        said = _verb(rng, motion, past).replace("its own", "their own").replace("it is", "they were")
        scene.acts = [Act(name, motion) for name in names]
        who = f"{', '.join(nouns[:-1])} and {nouns[-1]}"
        scene.sentences.append(_sentence(rng, f"{who} {said}{rng.choice(['', ' together'])}", place))
        return
    motions = [rng.choice(words.MOTIONS) for _ in names]
    scene.acts = [Act(name, motion) for name, motion in zip(names, motions, strict=True)]
    parts = [f"{noun} {_verb(rng, motion, past)}" for noun, motion in zip(nouns, motions, strict=True)]
    if len(parts) == 3:
        scene.sentences.append(_sentence(rng, f"{parts[0]}, {parts[1]} and {parts[2]}", place))
        return
    a, b = parts
    form = rng.choice(
        ["{a} and {b}", "{a}, and {b}", "{a} while {b}", "while {a}, {b}", "{a} as {b}", "{a}; {b}", "{a}, but {b}"]
    )
    if rng.random() < 0.15:  # the place in the middle
        scene.sentences.append(_sentence(rng, f"{a} {place} and {b}" if place else f"{a} and {b}", ""))
    else:
        scene.sentences.append(_sentence(rng, form.format(a=a, b=b), place))


def _again(rng: random.Random, earlier: list[SmallScene], place: str, past: bool) -> tuple[list[str], list[Act]] | None:
    """Those of the scene before, called "it" or "they"; or both of whom each had a scene of its own."""
    casts = [list(dict.fromkeys(act.name for act in scene.acts)) for scene in earlier]
    names = casts[-1]
    if len(casts) == 2 and len(casts[0]) == len(names) == 1 and casts[0] != names and past and rng.random() < 0.5:
        names = [*casts[0], *names]
    if len(names) not in (1, 2) or (len(names) == 2 and not past):
        return None
    if len(names) == 1:
        said = _verb(rng, motion := rng.choice(words.MOTIONS), past)
        text = f"{rng.choice(['it', 'it', 'he', 'she'])} {said}{rng.choice(EXTRAS)}"
        return [_sentence(rng, text, place)], [Act(names[0], motion)]
    who = rng.choice(["they", "they", "both of them", "the two"])
    if rng.random() < 0.3:
        text, motions = f"{who} {rng.choice(MEETINGS)}", ["walks right", "walks left"]
    else:
        motions = [rng.choice(words.MOTIONS)] * 2
        text = f"{who} {_verb(rng, motions[0], past)}".replace("its own", "their own").replace("it is", "they were")
    return [_sentence(rng, text, place)], [Act(name, motion) for name, motion in zip(names, motions, strict=True)]


def _beside(rng: random.Random, scene: SmallScene, cast: list[str], past: bool) -> None:
    """One more, in a sentence of its own."""
    free = [name for name in cast if name not in {act.name for act in scene.acts}]
    if not free or any(act.frames != (1, 6) for act in scene.acts):
        return
    name, motion = rng.choice(free), rng.choice(words.MOTIONS)
    where = rng.choice(["Beside it", "Next to it", "At its side", "Near it", "Not far away", "Right there"])
    scene.sentences.append(f"{where} {_noun(rng, name)} {_verb(rng, motion, past)}.")
    scene.acts.append(Act(name, motion))


def _noun(rng: random.Random, name: str) -> str:
    if rng.random() < 0.35:
        name = f"{rng.choice(words.ADJECTIVES)} {name}"
    return f"the {name}" if rng.random() < 0.5 else words.article(name)


def _verb(rng: random.Random, motion: str, past: bool, doing: bool = False) -> str:
    """One way to say the motion. Verbs without "/" are the same in every tense."""
    phrase = rng.choice(MOTIONS[motion])
    form = 2 if doing else int(past)
    said = re.sub(r"^\S+", lambda verb: verb[0].split("/")[form], phrase)
    if past and not doing:
        said = said.replace("comes down again", "came down again").replace("rises again", "rose again")
        said = said.replace("it is", "it was")
    return said


def _sentence(rng: random.Random, text: str, place: str) -> str:
    chance = rng.random()
    if place and chance < 0.4:
        text = f"{place}{rng.choice([',', ''])} {text}"
    elif place:
        text = f"{text} {place}"
    if chance > 0.75 or (chance < 0.4 and rng.random() < 0.15):
        text = f"{rng.choice(OPENINGS)}{rng.choice([',', ''])} {text}"
    return text[0].upper() + text[1:] + rng.choice([".", ".", ".", ".", "!"])


# Where actors stand. All in percent of the picture; a standing actor of 26-34 of 64 pixels fills 36..96 of its height.

MAX_STEP = 12  # from one keyframe to the next
_STANDING = (36, 96)
_WHOLE_PATH = {  # motion -> width at most, top, bottom of one box that holds the whole of it
    "jumps up and down": (38, 4, 98), "dances": (38, 34, 96), "runs in circles": (60, 6, 98),
    "spins around": (40, 30, 98), "zigzags across": (100, 4, 98), "grows bigger": (40, 30, 98),
    "shrinks": (40, 30, 98), "bounces across": (100, 10, 98), "swoops down": (100, 2, 98),
}  # fmt: skip


def layout(acts: list[Act]) -> list[dict[str, Any]]:
    """The regions of a level-2 answer: lanes from left to right in the order of first mention."""
    names = list(dict.fromkeys(act.name for act in acts))
    lanes = {1: [(0, 100)], 2: [(0, 48), (52, 100)], 3: [(0, 33), (34, 66), (67, 100)]}[max(len(names), 1)]
    left_now: dict[str, int] = {}
    regions = []
    for act in acts:
        a, b = lanes[names.index(act.name)]
        start, end = _boxes(act.motion, a, b, left_now.get(act.name), MAX_STEP * (act.frames[1] - act.frames[0]))
        left_now[act.name] = end[0]
        region: dict[str, Any] = {"entity": act.name, "motion": act.motion}
        if act.frames != (1, 6):
            region["frames"] = list(act.frames)
        region["from"] = start
        if end != start:
            region["to"] = end
        regions.append(region)
    return regions


def _boxes(motion: str, a: int, b: int, left: int | None, farthest: int) -> tuple[list[int], list[int]]:
    """First and last box of a motion in the lane a..b. `left`: the left edge where the actor ended just before;
    `farthest`: how far it may go."""
    if motion in _WHOLE_PATH:
        width, top, bottom = _WHOLE_PATH[motion]
        width = min(width, b - a)
        box = [_near(left, a, b, width), top, 0, bottom]
        box[2] = box[0] + width
        return box, box
    width = min(36, b - a - (6 if b - a < 40 else 14))  # room to walk
    at = _near(left, a, b, width)
    top, bottom = _STANDING
    start, end = [at, top, at + width, bottom], [at, top, at + width, bottom]
    if motion in ("walks left", "walks right"):
        right = motion == "walks right"
        a, b = (4, 92) if b - a == 100 else (a, b)  # all of the picture is too far for six keyframes
        near, far = (a, b - width) if right else (b - width, a)
        if left is not None:
            near = at
        far = min(far, near + farthest) if right else max(far, near - farthest)
        start[0], end[0] = near, far
        start[2], end[2] = near + width, far + width
    elif motion == "flies up":
        end[1], end[3] = 0, 60
    elif motion == "falls down":
        start[1], start[3] = 0, 60
    return start, end


def _near(left: int | None, a: int, b: int, width: int) -> int:
    """Left edge of a box in the lane: where the actor was, else in the middle."""
    return (a + b - width) // 2 if left is None else min(max(left, a), b - width)


def scene_answer(scene: SmallScene) -> dict[str, Any]:
    """What level 2 of the planner should answer."""
    return {"regions": layout(scene.acts)}
