"""The many ways to say the miniature's motions and places, and what else stories talk about.

A verb is written present/past/-ing and goes with each of the endings beside it: hundreds of ways for most motions.
"""

from __future__ import annotations

import random
import re
from typing import Literal

Form = Literal["present", "past", "doing", "do"]
_FORMS: tuple[Form, ...] = ("present", "past", "doing")
_DO = {"tiptoes": "tiptoe", "is": "be", "has": "have"}  # infinitives that no rule gives

_WALK = (
    "walks/walked/walking", "walks/walked/walking", "strolls/strolled/strolling", "wanders/wandered/wandering",
    "marches/marched/marching", "trots/trotted/trotting", "hurries/hurried/hurrying", "runs/ran/running",
    "tiptoes/tiptoed/tiptoeing", "goes/went/going", "heads/headed/heading", "moves/moved/moving",
    "plods/plodded/plodding", "shuffles/shuffled/shuffling", "rushes/rushed/rushing", "races/raced/racing",
    "hikes/hiked/hiking", "crawls/crawled/crawling", "waddles/waddled/waddling", "jogs/jogged/jogging",
    "creeps/crept/creeping", "strides/strode/striding", "steps/stepped/stepping", "travels/travelled/travelling",
)  # fmt: skip


def _sides(side: str, other: str) -> tuple[str, ...]:
    return (
        f"to the {side}", f"to the {side}", side, f"towards the {side}", f"to the {side} side", f"off to the {side}",
        f"over to the {side}", f"from {other} to {side}", f"to the {side} edge", f"{side} again", f"further {side}",
    )  # fmt: skip


# motion -> families of (verbs, endings)
MOTIONS: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    "stands still": (
        (("stands/stood/standing",), ("still", "still", "still", "there", "perfectly still", "like a statue",
                                      "around", "and looks", "and stares", "quietly")),
        (("waits/waited/waiting", "rests/rested/resting"), ("", "", "for a friend", "patiently", "a little")),
        (("watches/watched/watching", "looks/looked/looking on", "listens/listened/listening"), ("", "", "quietly")),
        (("watches/watched/watching", "admires/admired/admiring"), ("it", "the show", "it from afar")),
        (("sits/sat/sitting", "stays/stayed/staying"), ("quietly", "where it is", "still", "there", "in its place")),
        (("does/did/doing",), ("nothing", "nothing at all")),
        (("keeps/kept/keeping", "holds/held/holding"), ("still", "perfectly still", "quite still")),
        (("sleeps/slept/sleeping", "takes/took/taking a nap", "freezes/froze/freezing", "thinks/thought/thinking",
          "stops/stopped/stopping to think", "remains/remained/remaining where it is", "halts/halted/halting",
          "gazes/gazed/gazing at the sky", "counts/counted/counting the clouds"), ("",)),
    ),
    "walks left": (
        (_WALK, _sides("left", "right")),
        (("comes/came/coming",), ("in from the right", "from the right", "along from the right")),
        (("walks/walked/walking", "turns/turned/turning", "goes/went/going"), ("back", "back home", "home")),
        (("hurries/hurried/hurrying", "heads/headed/heading"), ("home", "back")),
    ),
    "walks right": (
        (_WALK, _sides("right", "left")),
        (("walks/walked/walking", "wanders/wandered/wandering", "strolls/strolled/strolling"),
         ("", "", "along", "on", "about", "by", "past", "for a while")),
        (("marches/marched/marching", "trots/trotted/trotting", "hikes/hiked/hiking", "plods/plodded/plodding"),
         ("along", "on", "by")),
        (("comes/came/coming",), ("in from the left", "from the left", "along from the left", "walking by")),
        (("sets/set/setting out", "sets/set/setting off", "goes/went/going for a walk", "goes/went/going on its way",
          "takes/took/taking a walk", "goes/went/going on a long walk", "passes/passed/passing by"), ("",)),
    ),
    "jumps up and down": (
        (("jumps/jumped/jumping", "jumps/jumped/jumping", "hops/hopped/hopping", "leaps/leapt/leaping"),
         ("up and down", "up and down", "on the spot", "for joy", "with excitement", "again and again",
          "up and down with joy", "high into the air", "with delight", "as high as it can")),
        (("bounces/bounced/bouncing", "skips/skipped/skipping"), ("up and down", "on the spot")),
        (("jumps/jumped/jumping", "hops/hopped/hopping"), ("", "three times", "happily", "in the air")),
        (("keeps/kept/keeping jumping", "keeps/kept/keeping hopping",
          "leaps/leapt/leaping into the air and comes down again"), ("",)),
    ),
    "flies up": (
        (("flies/flew/flying", "rises/rose/rising", "soars/soared/soaring", "floats/floated/floating",
          "drifts/drifted/drifting", "climbs/climbed/climbing"),
         ("up", "into the sky", "into the air", "up into the air", "upwards", "up to the clouds", "high into the sky",
          "up and away", "higher and higher", "up and up", "up like a balloon", "up to the sky")),
        (("takes/took/taking off", "lifts/lifted/lifting off the ground", "flies/flew/flying away",
          "goes/went/going up and up", "leaves/left/leaving the ground", "flies/flew/flying off"), ("",)),
    ),
    "falls down": (
        (("falls/fell/falling", "tumbles/tumbled/tumbling", "drops/dropped/dropping", "plunges/plunged/plunging",
          "crashes/crashed/crashing"),
         ("down", "down", "to the ground", "from the sky", "out of the sky", "from above", "from high up",
          "straight down", "down from the clouds", "out of the air")),
        (("sinks/sank/sinking", "comes/came/coming"), ("down", "down to the ground")),
        (("lands/landed/landing with a bump", "loses/lost/losing its grip and falls"), ("",)),
    ),
    "dances": (
        (("dances/danced/dancing",), ("", "", "", "to the music", "with joy", "happily", "to a song", "all day long",
                                      "a little dance", "wildly", "a waltz")),
        (("sways/swayed/swaying", "wiggles/wiggled/wiggling", "swings/swung/swinging"),
         ("to the music", "to a song", "to the beat", "to the rhythm")),
        (("does/did/doing a little dance", "does/did/doing a dance", "moves/moved/moving to the rhythm",
          "waltzes/waltzed/waltzing", "rocks/rocked/rocking from side to side", "dances/danced/dancing a jig",
          "practises/practised/practising its dance steps"), ("",)),
    ),
    "runs in circles": (
        (("runs/ran/running", "runs/ran/running", "races/raced/racing", "dashes/dashed/dashing",
          "hurries/hurried/hurrying", "trots/trotted/trotting", "rushes/rushed/rushing", "goes/went/going"),
         ("in circles", "in circles", "round and round", "in a circle", "around in a ring", "in a big loop",
          "around and around", "in wide circles")),
        (("chases/chased/chasing its own tail", "circles/circled/circling around", "runs/ran/running laps",
          "runs/ran/running around like mad"), ("",)),
    ),
    "spins around": (
        (("spins/spun/spinning", "spins/spun/spinning", "twirls/twirled/twirling", "whirls/whirled/whirling"),
         ("around", "around", "on the spot", "like a top", "around itself", "like a wheel", "until it is dizzy", "",
          "faster and faster")),
        (("turns/turned/turning",), ("like a top", "around itself", "head over heels", "around on the spot")),
        (("does/did/doing a pirouette", "makes/made/making a somersault", "does/did/doing a cartwheel"), ("",)),
    ),
    "zigzags across": (
        (("zigzags/zigzagged/zigzagging",), ("across", "across", "along", "", "from side to side", "all the way")),
        (("weaves/wove/weaving", "swerves/swerved/swerving", "darts/darted/darting"),
         ("from side to side", "here and there", "this way and that", "left and right")),
        (("moves/moved/moving in a zigzag", "runs/ran/running in a zigzag", "crosses/crossed/crossing in sharp turns",
          "takes/took/taking a zigzag path"), ("",)),
    ),
    "grows bigger": (
        (("grows/grew/growing",), ("bigger", "bigger", "bigger and bigger", "and grows", "as tall as a house",
                                   "larger", "taller and taller", "to the size of a house", "huge", "into a giant")),
        (("gets/got/getting", "becomes/became/becoming"),
         ("bigger", "bigger and bigger", "larger and larger", "huge", "very big", "as large as a ship", "enormous")),
        (("swells/swelled/swelling up", "swells/swelled/swelling up like a balloon",
          "turns/turned/turning into a giant"), ("",)),
    ),
    "shrinks": (
        (("shrinks/shrank/shrinking",), ("", "", "", "away", "to the size of a pea", "until it is tiny",
                                         "more and more",
                                         "to nearly nothing", "again")),
        (("gets/got/getting", "becomes/became/becoming", "grows/grew/growing"),
         ("smaller", "smaller and smaller", "tiny", "very small", "as small as a button")),
    ),
    "bounces across": (
        (("bounces/bounced/bouncing", "bounces/bounced/bouncing", "hops/hopped/hopping", "bounds/bounded/bounding",
          "springs/sprang/springing", "leaps/leapt/leaping"),
         ("across", "along", "along like a ball", "from one side to the other", "all the way across", "along the way",
          "across in big jumps", "over to the other side")),
        (("skips/skipped/skipping along",), ("",)),
    ),
    "swoops down": (
        (("swoops/swooped/swooping",), ("down", "down", "low", "over the ground", "down from above",
                                        "down and up again", "down like an eagle")),
        (("dives/dived/diving",), ("down and up again", "down and rises again", "from the sky and rises again")),
        (("glides/glided/gliding", "sweeps/swept/sweeping"), ("down in a wide curve", "low over the ground")),
        (("dips/dipped/dipping down and rises again",), ("",)),
    ),
}  # fmt: skip

# stage -> families of (prepositions, nouns)
PLACES: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    "forest": ((("in", "in", "through"), ("the forest", "the woods", "the dark forest", "a green wood",
                                          "the deep woods", "an old forest", "the wood", "the jungle")),
               (("among", "between", "under"), ("the trees", "the old oaks", "the tall firs", "the bushes",
                                                "the green branches"))),
    "beach": ((("on", "along", "on"), ("the beach", "the shore", "a sunny beach", "the coast", "the sandy beach")),
              (("by", "near"), ("the sea", "the water's edge", "the lighthouse", "the waves", "the ocean")),
              (("at",), ("the seaside", "the beach", "the shore")),
              (("on",), ("the sand by the waves", "the sand by the water"))),
    "night": ((("under", "beneath"), ("the stars", "the night sky", "the moon", "a full moon", "the dark sky")),
              (("in",), ("the moonlight", "the middle of the night", "the night", "the starlight", "the dark night")),
              (("at", "late at"), ("night",)),
              (("after", "when"), ("dark",)),
              (("by",), ("the light of the moon",)),
              (("when",), ("all were asleep", "the moon was up"))),
    "snow": ((("in", "through", "across"), ("the snow", "the deep snow", "a snowy field", "the white snow",
                                            "the snowy hills")),
             (("on",), ("the ice", "the icy mountain", "a snowy field", "the frozen ground", "a glacier")),
             (("in",), ("the cold white winter", "a winter land", "a blizzard", "the snowstorm")),
             (("among",), ("the snowflakes",))),
    "desert": ((("in", "through", "across"), ("the desert", "the hot desert", "the hot dry land", "the dry desert",
                                              "the endless desert")),
               (("on", "over"), ("the hot dry sand", "the hot sand")),
               (("beside", "near", "behind"), ("a cactus", "the pyramids", "a tall cactus")),
               (("between",), ("the sand hills", "the camels"))),
    "city": ((("in", "through"), ("the city", "the big city", "the busy streets", "the town", "the city centre",
                                  "the narrow streets")),
             (("on",), ("the street", "the town square", "the pavement", "the market square")),
             (("between", "among"), ("the tall buildings", "the houses", "the cars", "the towers")),
             (("in front of",), ("the shops", "the station", "the cinema")),
             (("in", ), ("town",)), (("downtown",), ("",))),
    "meadow": ((("in", "across", "through"), ("the meadow", "a green meadow", "the garden", "the park",
                                              "the green fields", "the tall grass")),
               (("among", "between"), ("the flowers", "the daisies", "the roses", "the sunflowers")),
               (("on",), ("the grass", "a green hill", "the meadow", "the green hillside"))),
    "sea": ((("under",), ("the sea", "water", "the water", "the ocean")),
            (("on", "at"), ("the sea floor", "the bottom of the sea", "the bottom of the ocean")),
            (("deep in", "down in"), ("the ocean", "the sea", "the deep blue water")),
            (("among", "between"), ("the corals", "the water plants", "the jellyfish")),
            (("below",), ("the waves", "the surface of the water")),
            (("beside",), ("a sunken ship", "an old anchor"))),
}  # fmt: skip


def infinitive(present: str) -> str:
    """The infinitive of a verb in the third person: "dashes" -> "dash"."""
    if present in _DO:
        return _DO[present]
    if present.endswith("ies"):
        return present[:-3] + "y"
    return present[:-2] if re.search(r"(o|sh|ch|ss|x|zz)es$", present) else present[:-1]


def say_motion(rng: random.Random, motion: str, form: Form) -> str:
    """One way to say the motion, about one character."""
    families = MOTIONS[motion]
    sizes = [len(set(verbs)) * len(set(ends)) for verbs, ends in families]
    verbs, ends = rng.choices(families, [size**0.5 for size in sizes])[0]
    verb, _, rest = rng.choice(verbs).partition(" ")
    forms = verb.split("/")
    said = infinitive(forms[0]) if form == "do" else forms[_FORMS.index(form)]
    text = " ".join(part for part in (said, rest, rng.choice(ends)) if part)
    return _same_tense(text, form)


def _same_tense(text: str, form: Form) -> str:
    """What follows the verb, in its tense."""
    then = r"\band (comes|rises|falls|looks|stares|grows)\b"
    past = {"comes": "came", "rises": "rose", "falls": "fell", "looks": "looked", "stares": "stared", "grows": "grew"}
    doing = {"comes": "coming", "rises": "rising", "falls": "falling", "looks": "looking", "stares": "staring",
             "grows": "growing"}  # fmt: skip
    if form == "past":
        text = re.sub(then, lambda m: f"and {past[m[1]]}", text)
        return text.replace("it is", "it was").replace("it can", "it could")
    if form == "doing":
        return re.sub(then, lambda m: f"and {doing[m[1]]}", text)
    return re.sub(then, lambda m: f"and {infinitive(m[1])}", text) if form == "do" else text


def say_place(rng: random.Random, stage: str) -> str:
    """One way to say where the stage is."""
    families = PLACES[stage]
    preps, nouns = rng.choices(families, [(len(p) * len(n)) ** 0.5 for p, n in families])[0]
    return f"{rng.choice(preps)} {rng.choice(nouns)}".strip()
