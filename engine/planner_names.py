"""Names that a story gives to its characters ("a fox called Max"), told by their kind to a model of few words."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Sequence

_NAME = r"(?P<name>[A-Z][\w'’-]*[a-z]\b(?<!['’]s))"
_SAID = "called|named|by the name of|known as|whose name (?:is|was)"
_SOME = r"(?:[\w'’-]+ ){0,3}"  # "little", "very old"
_GIVES = r"\bname (?:is|was) {0}\b|\b(?:called|named|by the name of|known as)(?: him| her| it)? {0}\b"
# What a sentence may begin with before "the fox": no name.
_OPENERS = frozenset(
    re.findall(
        r"\w+",
        """about above across after again all along already also although always among an and around as at away back
        because before behind below beneath beside besides between beyond both but by climbs comes did does down each
        even ever every finally first for from goes had has have he her here his how however if in inside instead into
        is it its just last later like look maybe meanwhile more my near never next no not now of off often on once one
        only onto opposite or our out over past perhaps poor round see she since so some soon still suddenly that the
        their then there they this though through throughout till to today together tomorrow tonight too toward towards
        under underneath unless until up upon was we were what whatever when whenever where wherever whether which while
        who why will with within without would yet you
        anybody anyone anything everybody everyone everything nobody nothing somebody someone something
        monday tuesday wednesday thursday friday saturday sunday spring summer autumn winter christmas easter
        january february march april may june july august september october november december""",
    )
)


def names_of(text: str, cast: Sequence[str]) -> dict[str, str]:
    """Name -> who of the cast bears it. Where a story gives one name twice, the first bears it."""
    kinds = {name.lower(): name for name in cast}
    if not kinds:
        return {}
    longest_first = sorted(map(re.escape, cast), key=len, reverse=True)
    kind = rf"(?P<kind>(?i:{'|'.join(longest_first)}))\b"
    given = r"(?i:his|her|its) name (?:is|was)|(?i:he|she|it) (?:is|was) (?:called|named)|called (?:him|her|it)"
    plain = (
        rf"\b{kind},? (?:{_SAID}) {_NAME}",  # a fox called Max
        rf"\b(?i:the|our|an?|little|old|young) {kind} {_NAME}",  # the fox Max
        rf"\b(?P<kind>{'|'.join(name.capitalize() for name in longest_first)}) {_NAME}",  # Princess Zara
        rf"\b{kind}['’]s name (?:is|was) {_NAME}",
        rf"\b(?:{given}) {_NAME}",  # of whoever was named last
    )
    loose = (
        rf"\b{_NAME},? the {_SOME}{kind}",  # Max the fox
        rf"\b{_NAME}, (?:an?|our|my|their|his|her) {_SOME}{kind}",  # Max, a little fox,
        rf"\b{_NAME} (?:is|was) (?:an?|the) {_SOME}{kind}",  # Max was a fox
    )
    named = [*re.finditer(rf"\b{kind}", text)]
    ends = [match.end() for match in named]
    found: list[tuple[int, str, str]] = []
    for form in (*plain, *loose):
        for match in re.finditer(form, text):
            name, said = match["name"], match.groupdict().get("kind")
            if said is None and (before := bisect(ends, match.start())):
                said = named[before - 1]["kind"]
            if form in loose and not re.search(rf"\b{name}\b(?!,| the| an? )", text[match.end() :]):
                continue  # "Shivering, the penguin": a name is said again
            who = kinds.get(said.lower()) if said else None  # none for a long s, which matches an s
            if who and name.lower() not in _OPENERS and name.lower() not in kinds:
                found.append((match.start(), name, who))
    names: dict[str, str] = {}
    for _, name, who in sorted(found):
        names.setdefault(name, who)
    return names


def by_kind(sentences: Sequence[str], cast: Sequence[str]) -> list[str]:
    """The sentences, as many as before, with "the fox" where they say "Max". Those that only give a name are left."""
    names = names_of(" ".join(sentences), cast)
    return [_told(sentence, names) for sentence in sentences] if names else list(sentences)


def _told(sentence: str, names: dict[str, str]) -> str:
    for name, who in names.items():
        kind = rf"\b(?P<kind>(?i:{re.escape(who)}))"
        if re.search(_GIVES.format(name), sentence):
            sentence = re.sub(rf"{kind},? (?:{_SAID}) {name}\b,?", r"\g<kind>", sentence)
            continue

        def told(match: re.Match[str], who: str = who) -> str:
            known = match.groupdict().get("kind")
            return known if known and known.islower() else f"the {who}"  # the little fox Max; Princess Zara

        sentence = re.sub(rf"{kind} {name}\b", told, sentence)
        sentence = re.sub(rf"\b{name}(?:,? the (?i:{re.escape(who)}))?\b", told, sentence)
        sentence = sentence[:1].upper() + sentence[1:]
    return sentence
