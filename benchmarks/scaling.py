"""What the studio itself costs: real Ray, 1 to 64 workers that wait instead of rendering.

    python -m benchmarks.scaling [--workers 1,2,4,8,16,32,64] [--scenes 20] [--waits 1.0,0.25]

Each scene takes its worker a fixed time, in 50 reported steps; its result goes through the real store, every attempt
through the journal, every decision through the studio's loop. `efficiency` is that time, over what a worker needed per
scene from the first scene's start to the last one's end (20 scenes a worker); `overhead_ms_per_scene` what is beyond it
with most workers. All processes share this machine's cores, which is what ends the scaling. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

from rich.console import Console

from benchmarks.waiting import STEPS
from cluster.client import close_studio, make_films, open_studio
from cluster.films import FilmRequest
from cluster.journal import Journal
from cluster.local import ray_cluster
from cluster.store import Store
from engine.plan import Plan, Scene
from engine.settings import ExecutionPlan, RenderSettings

console = Console(stderr=True)
WORKER = "benchmarks.waiting:Waiter"
AT_ONCE = 8  # workers that are started side by side: more start no sooner on a few cores


def film(name: str, seed: int, scenes: int, wait: float) -> FilmRequest:
    """A film of scenes that take `wait` seconds each."""
    plan = Plan(scenes=tuple(Scene(id=f"{name}-{n}", background=f"waiting {wait}") for n in range(scenes)))
    return FilmRequest(
        plan=plan, seed=seed, model="nothing", fingerprint="nothing", learn=False,
        settings=RenderSettings(num_inference_steps=STEPS, guidance_scale=1),
        execution=ExecutionPlan(device="cpu", dtype="float32", threads=1),
    )  # fmt: skip


def measure(studio: Any, store: Store, workers: int, scenes: int, wait: float) -> float:
    """Efficiency of so many workers, which are there."""
    films = [film(f"w{workers}", seed, scenes, wait) for seed in range(workers)]
    make_films(studio, films, workers, lambda states: None)
    journal = Journal(store)
    spans = [span for request in films for span in journal.done_film(request.key).spans]  # type: ignore[union-attr]
    assert len(spans) == workers * scenes and all(span.outcome == "finished" for span in spans)
    jobs = films[0].film(films[0].plan).scenes  # type: ignore[arg-type]
    assert not store.notes(*jobs[0].result)["torch"]
    elapsed = max(span.end or 0.0 for span in spans) - min(span.start for span in spans)
    return scenes * wait / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2,4,8,16,32,64")
    parser.add_argument("--scenes", type=int, default=20, help="of each worker")
    parser.add_argument("--waits", default="1.0,0.25", help="seconds of a scene; the first is the main one")
    options = parser.parse_args()
    sizes = [int(size) for size in options.workers.split(",")]
    waits = [float(wait) for wait in options.waits.split(",")]
    found: dict[float, list[float]] = {wait: [] for wait in waits}
    with tempfile.TemporaryDirectory() as folder, ray_cluster(None, max(sizes)):
        store = Store(folder)
        studio = open_studio(store, "cpu", WORKER)
        there = 0
        for size in sizes:
            while there < size:
                there = min(size, there + AT_ONCE)
                with console.status(f"starting workers: {there} ..."):
                    make_films(studio, [film("warm", 1000 + there, there, 0.1)], there, lambda states: None)
            for wait in waits:
                with console.status(f"{size} workers, {wait:g} s a scene ..."):
                    found[wait].append(round(measure(studio, store, size, options.scenes, wait), 4))
                console.print(f"{size} workers, {wait:g} s a scene: efficiency {found[wait][-1]}")
        close_studio(studio)
    tables = {
        wait: {"efficiency": values, "overhead_ms_per_scene": round(1000 * wait * (1 / values[-1] - 1), 1)}
        for wait, values in found.items()
    }
    first, *others = waits
    rest = {f"at_{wait:g}_s": tables[wait] for wait in others}
    print(json.dumps({"wait_s": first, "workers": sizes, **tables[first], **rest}))


if __name__ == "__main__":
    main()
