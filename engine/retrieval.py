"""The four steps that find a motion's clips, and what the storyboard shows of them.

Source: method.md section 2 (paper, section 3.2): words, attributes, subjects, scorers. Step 3's work, cutting footage
around tracked subjects, is done once when a clip is added (engine/segments.py); what is left of it here is to leave out
clips in which the subject is hardly seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from engine.errors import InputError
from engine.library_settings import RetrievalSettings
from engine.scorers import Embeddings

Row = dict[str, Any]  # a segment's facts, as the library's table has them


class Candidate(BaseModel):
    """A clip that one of the steps kept. `bm25` is None when no word led to it. `score` is the mean of `clip` and
    `xclip`, cosines in -1..1; None where the bundle has no scorers."""

    model_config = ConfigDict(frozen=True)

    id: str
    caption: str
    bm25: float | None = None
    clip: float | None = None
    xclip: float | None = None
    score: float | None = None


class Step(BaseModel):
    """What a step kept, best first, and how many it dropped for which reason."""

    model_config = ConfigDict(frozen=True)

    name: Literal["words", "attributes", "subjects", "scorers"]
    kept: tuple[Candidate, ...]
    dropped: dict[str, int]


class Retrieval(BaseModel):
    """How a motion's clips were found; the storyboard shows it."""

    model_config = ConfigDict(frozen=True)

    motion: str
    query: str
    clips: int  # in the library
    settings: RetrievalSettings
    steps: tuple[Step, ...]

    @property
    def selected(self) -> tuple[Candidate, ...]:
        """The clips to learn from."""
        return self.steps[-1].kept


class Found:
    """Rows of the library in some order, and what the scorers made of them: unit vectors (N, D) or None."""

    def __init__(self, rows: Sequence[Row], vectors: Embeddings | None) -> None:
        self.rows, self.vectors = list(rows), vectors

    def __len__(self) -> int:
        return len(self.rows)

    def pick(self, numbers: Sequence[int]) -> Found:
        """Those of these numbers, in their order."""
        vectors = self.vectors and Embeddings(*(x[list(numbers)] for x in self.vectors))
        return Found([self.rows[n] for n in numbers], vectors)

    def drop(self, fault: Callable[[Row], str]) -> tuple[Found, dict[str, int]]:
        """Those without a fault, and how many had which."""
        faults = [fault(row) for row in self.rows]
        return self.pick([n for n, why in enumerate(faults) if not why]), dict(Counter(filter(None, faults)))

    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(_candidate(row) for row in self.rows)

    def scored(self, asked: Embeddings | None) -> list[Candidate]:
        """With their scores for a text, best first; without scorers as they come."""
        if asked is None or self.vectors is None or not self.rows:
            return list(self.candidates())
        clip, xclip = (vectors @ text[0] for vectors, text in zip(self.vectors, asked, strict=True))
        scored = [
            _candidate(row, clip=c, xclip=x, score=(c + x) / 2)
            for row, c, x in zip(self.rows, clip.tolist(), xclip.tolist(), strict=True)
        ]
        return sorted(scored, key=lambda candidate: (-(candidate.score or 0.0), candidate.id))


def attributes(s: RetrievalSettings) -> Callable[[Row], str]:
    """Step 2: why a clip cannot be learned from; empty when it can."""

    def fault(row: Row) -> str:
        if row["seconds"] < s.min_seconds:
            return f"shorter than {s.min_seconds:g} s"
        if row["frames"] < s.min_frames:
            return f"of fewer than {s.min_frames} frames"
        if row["width"] / row["height"] < s.min_aspect:
            return f"narrower than {s.min_aspect:g} of their height"
        return ""

    return fault


def subjects(s: RetrievalSettings) -> Callable[[Row], str]:
    """Step 3: whether the segment's subject is hardly in it. Libraries without a detector know no presence."""

    def fault(row: Row) -> str:
        if row["presence"] is None or row["presence"] >= s.min_presence:
            return ""
        return f"subject seen in less than {s.min_presence:.0%}"

    return fault


def four_steps(
    motion: str, query: str, clips: int, found: Found, ask: Callable[[], Embeddings | None], s: RetrievalSettings
) -> Retrieval:
    """The steps over what BM25 found for the query among `clips`; `ask` embeds the query when its turn comes. Raises
    InputError when nothing is left to learn from."""
    words = _step("words", found, {f"no word in common, or beyond the best {s.candidates}": clips - len(found)})
    sound, faults = found.drop(attributes(s))
    centred, absent = sound.drop(subjects(s))
    if not len(centred):
        why = ", ".join(f"{n} {fault}" for fault, n in {**faults, **absent}.items())
        raise InputError(
            f"motion {motion!r}: the library has clips for it, but none that can be learned from ({why}); add others "
            f"with `dreamrunner library add FOLDER`"
        )
    scored = centred.scored(ask() if s.scored else None)
    good = [c for c in scored if c.score is None or c.score > s.threshold]
    kept = good[: s.most] if len(good) >= s.least else scored[: s.least]
    low = len(scored) - max(len(good), len(kept))
    dropped = {f"score of {s.threshold} or less": low, f"beyond the best {s.most}": len(scored) - low - len(kept)}
    steps = (
        words,
        _step("attributes", sound, faults),
        _step("subjects", centred, absent),
        Step(name="scorers", kept=tuple(kept), dropped=_some(dropped)),
    )
    return Retrieval(motion=motion, query=query, clips=clips, settings=s, steps=steps)


def _step(name: Literal["words", "attributes", "subjects"], kept: Found, dropped: dict[str, int]) -> Step:
    return Step(name=name, kept=kept.candidates(), dropped=_some(dropped))


def _candidate(row: Row, **scores: float) -> Candidate:
    bm25 = {} if row.get("_score") is None else {"bm25": row["_score"]}
    shown = {name: round(score, 4) for name, score in {**bm25, **scores}.items()}
    return Candidate(id=row["id"], caption=row["caption"], **shown)


def _some(counts: dict[str, int]) -> dict[str, int]:
    return {reason: n for reason, n in counts.items() if n}
