"""One name for each motion: "is hopping", "hopping" and "hop" are "hops", so that one prior serves them all."""

from __future__ import annotations

import re

from engine.plan import NONE

_AUXILIARIES = re.compile(
    r"^((is|are|was|were|be|being|been|has|have|had|begins?|began|starts?|started|to|keeps?)\s+)+"
)
_PAST = {
    "ran": "run", "flew": "fly", "fell": "fall", "rose": "rise", "swam": "swim", "sat": "sit", "stood": "stand",
    "ate": "eat", "drank": "drink", "went": "go", "came": "come", "sang": "sing", "threw": "throw", "caught": "catch",
    "rode": "ride", "drove": "drive", "slept": "sleep", "grew": "grow", "shrank": "shrink", "spun": "spin", "leapt":
    "leap", "swung": "swing", "wept": "weep", "crept": "creep", "drew": "draw", "wrote": "write", "read": "read",
    "held": "hold", "took": "take", "gave": "give", "dug": "dig", "hid": "hide", "bent": "bend", "knelt": "kneel",
    "shook": "shake", "swept": "sweep", "dove": "dive", "climbed": "climb", "fought": "fight", "blew": "blow", "lay":
    "lie", "woke": "wake", "did": "do",
}  # fmt: skip
_ING = {"lying": "lie", "dying": "die", "tying": "tie", "being": "be"}
_MUTE_E = re.compile(
    r"([cvuz]|[^aeioulrw]l|[aeiou]s|[lr]g|rs|ns|lung|hang|rang|breath|bath|cloth|rad|vad|plor|quir|[^aeiou]at|otat)$"
)
_NO_E = re.compile(r"(zz|lz|tz|^hang|br?rang|^eat|ay|^chat)$|^(hang|ring)$")
_NO_S = {"is", "this", "across", "his", "its"}


def normal_motion(text: str) -> str:
    """The motion in the present tense, third person: "is running fast" -> "runs fast". Words that are no verb's known
    form are left as they are; `NONE` stays."""
    said = " ".join(text.lower().split()).rstrip(".!")
    if said in ("", NONE):
        return NONE
    bare = _AUXILIARIES.sub("", said)
    verb, _, rest = bare.partition(" ")
    return f"{_third_person(_infinitive(verb))} {rest}".strip()


def _infinitive(verb: str) -> str:
    if verb in _ING or verb in _PAST:
        return _ING.get(verb) or _PAST[verb]
    if verb.endswith("ing") and len(verb) > 4 and re.search(r"[aeiouy]", verb[:-3]):
        return _from_stem(verb[:-3])
    if verb.endswith("ied") and len(verb) > 4:
        return verb[:-3] + "y"
    if verb.endswith("ed") and len(verb) > 3 and re.search(r"[aeiouy]", verb[:-2]):
        return _from_stem(verb[:-2])
    if verb.endswith("ies") and len(verb) > 4:
        return verb[:-3] + "y"
    if re.search(r"(o|sh|ch|ss|x|zz)es$", verb):
        return verb if verb == "tiptoes" else verb[:-2]
    return verb[:-1] if verb.endswith("s") and not verb.endswith("ss") and verb not in _NO_S else verb


def _from_stem(stem: str) -> str:
    """What "-ing" or "-ed" was put to: "hopp" -> "hop", "danc" -> "dance", "walk" -> "walk"."""
    if re.search(r"([bdgmnprt])\1$", stem):
        return stem[:-1]
    if _MUTE_E.search(stem) and not _NO_E.search(stem):
        return stem + "e"
    short = re.search(r"^[^aeiou]*[aeiouy][^aeiouwxy]$", stem)  # a verb like "hop" would have doubled its last letter
    return stem + "e" if short else stem


def _third_person(verb: str) -> str:
    if verb.endswith("s") and not verb.endswith("ss"):
        return verb
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return verb + ("es" if re.search(r"([^o]o|sh|ch|ss|x|z)$", verb) else "s")
