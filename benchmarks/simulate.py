"""The studio's schedule against simulated clusters of up to 10,000 GPUs, beside first-in-first-out.

    python -m benchmarks.simulate [--workers 10,100,1000,10000] [--day-workers 100] [--seed 0] [--plot FILE]

Three loads, with the cost model's seconds of CogVideoX on H100s (engine/cost.py), to which each job adds its own:
- deep: 100 scenes a worker, all there at the start, a fifth of the films for a second, larger model;
- shallow: 3 scenes a worker, with priors that cost 20 scenes each, and 5 % of attempts fail;
- day: films arrive as a Poisson process whose rate follows the hours of a day, from one scene to hundreds; motions are
  shared, so most priors were learned before.
`over_bound` is the time that all took, over what no schedule can beat: max(critical path, (work + work lost to
failures) / workers). `fifo` is the same of first-in-first-out. `p95_latency`: seconds from a film's arrival to its end.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.simulate import Fifo, Machines, Outcome, SimFilm, SimJob, bound, simulate
from engine.cost import COGVIDEOX_2B, COGVIDEOX_5B, H100, scene_cost

console = Console(stderr=True)
CONDITIONS, STEPS = 2, 50
PRIOR_IN_SCENES = 20
SPLITS = ((1, 1), (2, 1), (2, 2), (2, 3), (2, 6))  # guidance x Ulysses; both models' heads divide
DAY = 86_400.0
SWING = 0.7  # of a day's rate of films, least at midnight, most at noon
MOTIONS = 300  # that people ask for, the k-th in proportion to 1 / k
SEEN = tuple(
    tuple((g * u, scene_cost(shape, CONDITIONS, STEPS, H100, g, u).seconds) for g, u in SPLITS)
    for shape in (COGVIDEOX_2B, COGVIDEOX_5B)
)
MODELLED = dict(zip(("2B", "5B"), SEEN, strict=True))


class Maker:
    """Films of a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.weights = list(accumulate(1 / k for k in range(1, MOTIONS + 1)))

    def slower(self) -> float:
        """What a job takes over the cost model's word, which knows neither overlaps of boxes nor a machine's mood."""
        return self.random.lognormvariate(0.1, 0.1)

    def film(self, name: str, scenes: int, priors: list[str], arrives: float = 0.0, model: str = "2B") -> SimFilm:
        """A film whose scenes need at most one of its priors each, two in three of them."""
        one = MODELLED[model][0][1]
        learned = [
            SimJob(f"prior {model} {p}", "prior", ((1, PRIOR_IN_SCENES * one),), self.slower(), (), model)
            for p in priors
        ]  # fmt: skip
        drawn = []
        for n in range(scenes):
            use = (self.random.choice(learned).key,) if learned and self.random.random() < 2 / 3 else ()
            drawn.append(SimJob(f"{name}/{n}", "scene", MODELLED[model], self.slower(), use, model))
        used = {key for job in drawn for key in job.needs}
        return SimFilm(name, (*(job for job in learned if job.key in used), *drawn), arrives)

    def films(self, scenes: int, largest: int, priors_of_ten: int, second_model: float = 0.0) -> list[SimFilm]:
        """Films of 4 to `largest` scenes, many small ones; `scenes` together."""
        out: list[SimFilm] = []
        while scenes:
            size = min(scenes, int(math.exp(self.random.uniform(math.log(4), math.log(largest)))))
            name = f"f{len(out)}"
            priors = [f"{name}.{n}" for n in range(max(1, round(size / 10)) * priors_of_ten)]
            model = "5B" if self.random.random() < second_model else "2B"
            out.append(self.film(name, size, priors, 0.0, model))
            scenes -= size
        return out

    def day(self, workers: int, load: float) -> list[SimFilm]:
        """A day's films, by a Poisson process; their scenes alone would keep the workers busy `load` of the time."""
        sizes = [self._size() for _ in range(10_000)]
        one = MODELLED["2B"][0][1] * sum(sizes) / len(sizes)
        highest, at, out = (1 + SWING) * load * workers / one, 0.0, []
        while (at := at + self.random.expovariate(highest)) < DAY:
            if self.random.random() * (1 + SWING) < 1 - SWING * math.cos(2 * math.pi * at / DAY):
                size = self._size()
                motions = [self._motion() for _ in range(max(1, size // 10))]
                out.append(self.film(f"f{len(out)}", size, list(dict.fromkeys(motions)), at))
        return out

    def _size(self) -> int:
        return min(400, int(self.random.lognormvariate(math.log(12), 1.0)) + 1)

    def _motion(self) -> str:
        return f"motion {self.random.choices(range(MOTIONS), cum_weights=self.weights)[0]}"


def compare(films: list[SimFilm], machines: Machines, seed: int) -> tuple[Outcome, Outcome]:
    """Ours and first-in-first-out."""
    return simulate(films, machines, seed=seed), simulate(films, machines, Fifo(), seed=seed)


def over_bound(films: list[SimFilm], outcome: Outcome, workers: int) -> float:
    return round(outcome.makespan / bound(films, workers, outcome.lost), 4)


def p95(outcome: Outcome) -> float:
    latency = sorted(outcome.latency.values())
    return latency[math.ceil(0.95 * len(latency)) - 1]


def at_start(name: str, workers: int, seed: int) -> tuple[float, float, Outcome]:
    """Over the bound, ours and first-in-first-out, of deep or shallow; and our outcome."""
    maker = Maker(seed)
    if name == "deep":
        films, machines = maker.films(100 * workers, 2000, 0, second_model=0.2), Machines(workers)
    else:
        films, machines = maker.films(3 * workers, 40, 1), Machines(workers, failures=0.05)
    ours, fifo = compare(films, machines, seed)
    return over_bound(films, ours, workers), over_bound(films, fifo, workers), ours


def one_day(workers: int, load: float, seed: int) -> tuple[Outcome, Outcome]:
    """Ours and first-in-first-out on the same day."""
    return compare(Maker(seed).day(workers, load), Machines(workers, failures=0.01), seed)


Curve = dict[int, tuple[float, float]]  # workers -> over the bound, ours and first-in-first-out


def plot(file: Path, curves: dict[str, Curve], day: tuple[Outcome, Outcome], day_workers: int) -> None:
    """Deep and shallow over numbers of workers, and how many of a day's films were done how soon."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), constrained_layout=True)
    titles = {"deep": "100 scenes a worker", "shallow": "3 scenes a worker, priors of 20 scenes,\n5 % of attempts fail"}
    for axis, (name, curve) in zip(axes, curves.items(), strict=False):
        for number, label in enumerate(("studio", "first in, first out")):
            axis.plot(list(curve), [values[number] for values in curve.values()], "o-", label=label)
        axis.axhline(1, color="0.5", linewidth=0.8)
        axis.set(xscale="log", xlabel="workers", ylabel="time over the bound", title=f"{name}: {titles[name]}")
        axis.legend()
    for outcome, label in zip(day, ("studio", "first in, first out"), strict=True):
        hours = sorted(seconds / 3600 for seconds in outcome.latency.values())
        axes[2].plot(hours, [100 * (n + 1) / len(hours) for n in range(len(hours))], label=label)
    axes[2].axhline(95, color="0.5", linewidth=0.8)
    axes[2].set(xscale="log", xlabel="hours from asking to the film", ylabel="% of the day's films", ylim=(0, 100))
    axes[2].set_title(f"day: {len(day[0].latency)} films on {day_workers} workers")
    axes[2].legend()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--workers", default="10,100,1000,10000", help="sizes of deep and shallow; the last is reported"
    )
    parser.add_argument("--day-workers", type=int, default=100)
    parser.add_argument("--day-load", type=float, default=0.6, help="share of the day that scenes keep workers busy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="a file for the picture, such as docs/simulate.png")
    options = parser.parse_args()
    sizes = [int(size) for size in options.workers.split(",")]
    loads: dict[str, Any] = {}
    curves: dict[str, Curve] = {"deep": {}, "shallow": {}}
    decisions, deciding = 0, 0.0
    for name, curve in curves.items():
        for workers in sizes:
            with console.status(f"{name}: {workers} workers ..."):
                ours, fifo, outcome = at_start(name, workers, options.seed)
            curve[workers] = ours, fifo
            console.print(f"{name}: {workers} workers: {ours} over the bound, first-in-first-out {fifo}")
        loads[name] = {"workers": workers, "over_bound": ours, "fifo": fifo}
        decisions, deciding = decisions + outcome.decisions, deciding + outcome.deciding
    with console.status(f"a day on {options.day_workers} workers ..."):
        day = one_day(options.day_workers, options.day_load, options.seed)
    loads["day"] = {"p95_latency": round(p95(day[0]), 1), "fifo": round(p95(day[1]), 1)}
    if options.plot:
        plot(options.plot, curves, day, options.day_workers)
    print(json.dumps({"loads": loads, "decisions_per_s": round(decisions / deciding)}))


if __name__ == "__main__":
    main()
