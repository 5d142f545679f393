"""How long jobs take: what the cost model says, corrected by what was measured."""

from __future__ import annotations

from collections.abc import Mapping

WEIGHT = 0.3  # of the newest measurement

What = tuple[str, int, str]  # kind of job, workers, device


class Times:
    """For each (kind of job, workers, device) an exponential average of measured / modelled seconds. So one average
    serves previews and full renders, short clips and long ones, and begins at what the cost model says."""

    def __init__(self, factors: Mapping[What, float] | None = None) -> None:
        self.factors: dict[What, float] = dict(factors or {})

    def observe(self, kind: str, workers: int, device: str, modelled: float, measured: float) -> None:
        """Takes in one finished job. The first replaces the cost model's word, which knows no machine by itself."""
        if modelled <= 0 or measured <= 0:
            return
        what, ratio = (kind, workers, device), measured / modelled
        old = self.factors.get(what)
        self.factors[what] = ratio if old is None else (1 - WEIGHT) * old + WEIGHT * ratio

    def seconds(self, kind: str, workers: int, device: str, modelled: float) -> float:
        """What such a job will take."""
        return modelled * self.factor(kind, workers, device)

    def factor(self, kind: str, workers: int, device: str) -> float:
        """The average; that of the nearest number of workers, or of another kind of job there, when there is none; else
        1."""
        exact = self.factors.get((kind, workers, device))
        if exact is not None:
            return exact
        near = [(what[0] != kind, abs(what[1] - workers), what) for what in self.factors if what[2] == device]
        return self.factors[min(near)[2]] if near else 1.0
