"""Ten stories on four workers: who worked when, as a picture, and how long any worker idled while work waited.

    python -m benchmarks.stories [--films 10] [--workers 4] [--steps 12] [--picture stories.png]

Real workers render scenes of stored plans, one to five a film; three films ask for one motion that is learned first.
The last line is one JSON object: `busy` is the share of the workers' time, from the moment all of them were there to
the last job's end, in which they worked; `idle_while_work_waited_s` sums the seconds in which a worker had nothing
while a job that could start waited for one.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import NamedTuple

from cluster.films import FilmRequest, request_of
from cluster.journal import Journal, Span
from cluster.store import Store
from engine.models import load_bundle
from engine.plan import Plan, Region, load_plan
from engine.settings import ExecutionPlan, RenderSettings
from serving.timeline import draw_timeline, parts_of

PLAN = Path(__file__).parent.parent / "examples" / "the-fox-and-the-robot.plan.yaml"
NEW_MOTION, PRIOR_STEPS = "spins around", 30


class Wait(NamedTuple):
    """A job that could start at `ready`, and did at `start`."""

    ready: float
    start: float


def requests(store: Store, films: int, steps: int) -> list[FilmRequest]:
    rng, bundle, plan = random.Random(0), load_bundle("miniature"), load_plan(PLAN)
    few = bundle.model_copy(update={"priors": bundle.priors.model_copy(update={"steps": PRIOR_STEPS})})
    asked = []
    for number in range(films):
        scenes = [*rng.sample(plan.scenes, rng.randint(1, 5))]
        if number % 4 == 1:
            old = scenes[-1].regions[0]
            new = Region(entity=old.entity, motion=NEW_MOTION, caption=f"a {old.entity} {NEW_MOTION}", boxes=old.boxes)
            scenes[-1] = scenes[-1].model_copy(update={"regions": (new,)})
        asked.append(
            request_of(
                few, "miniature", store, plan=Plan(title=f"film {number + 1}", scenes=tuple(scenes)), seed=number,
                settings=RenderSettings(num_inference_steps=steps, guidance_scale=4),
                execution=ExecutionPlan(device="cpu", dtype="float32", threads=1),
            )
        )  # fmt: skip
    return asked


def idle_while_work_waited(spans: list[Span], waits: list[Wait], begin: float) -> float:
    """Worker-seconds, of workers with nothing to do, in moments in which a job that could start had not."""
    waiting = _union([(w.ready, w.start) for w in waits if w.start > w.ready])
    idle = 0.0
    for worker in {name for span in spans for name in span.worker}:
        busy = _union([(s.start, s.freed or s.end or s.start) for s in spans if worker in s.worker])
        edges = [begin, *(edge for pair in busy for edge in pair)]
        gaps = zip(edges[::2], edges[1::2], strict=False)
        idle += sum(
            max(0.0, min(end, late) - max(start, early, begin)) for start, end in gaps for early, late in waiting
        )
    return idle


def _union(pieces: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same time as pieces that do not overlap, in order."""
    out: list[tuple[float, float]] = []
    for start, end in sorted(pieces):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], end)
        else:
            out.append((start, end))
    return out


def waits_of(asked: list[FilmRequest], spans: list[Span], at: float) -> list[Wait]:
    """When each job could start: when it was asked for and all that it needs was there."""
    ended = {(span.kind, span.key): span.end or span.start for span in spans}
    begun = {(span.kind, span.key): span.start for span in reversed(spans)}
    waits = []
    for request in asked:
        assert request.plan
        for job in request.film(request.plan).jobs:
            if job.workers and job.result in begun:
                ready = max([at, *(ended[need] for need in job.needs if need in ended)])
                waits.append(Wait(ready, begun[job.result]))
    return waits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=10)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--picture", type=Path, default=Path("stories.png"))
    options = parser.parse_args()
    from cluster.client import render_films

    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        asked = requests(store, options.films, options.steps)
        render_films(store, asked, options.workers, None, lambda states: None)
        films = [(request.plan.title if request.plan else "", request) for request in asked]
        done = {title: Journal(store).done_film(request.key) for title, request in films}
    spans = list({(s.key, s.start): s for film in done.values() if film for s in film.spans}.values())
    spans.sort(key=lambda span: span.start)
    first = {name: span.start for span in reversed(spans) for name in span.worker}
    begin, end = max(first.values()), max(span.end or span.start for span in spans)
    worked = sum(
        max(0.0, (s.freed or s.end or s.start) - max(s.start, begin)) for s in spans for _ in s.worker
    )  # fmt: skip
    parts = parts_of([(title, film.spans) for title, film in done.items() if film])
    draw_timeline(options.picture, parts, f"{options.films} stories on {options.workers} workers")
    at = max(film.asked for film in done.values() if film)
    print(json.dumps({
        "films": options.films, "workers": options.workers, "scenes": sum(s.kind == "scene" for s in spans),
        "priors": sum(s.kind == "prior" for s in spans), "seconds": round(end - begin, 1),
        "busy": round(worked / (options.workers * (end - begin)), 3),
        "idle_while_work_waited_s": round(idle_while_work_waited(spans, waits_of(asked, spans, at), begin), 2),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
