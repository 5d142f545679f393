"""A film on three nodes, the middle of which is killed while it renders, and a picture of who did what.

    python -m benchmarks.nodes [--picture docs/nodes.png]

A new node takes its place. The film is compared with the same film by an undisturbed cluster, by a process that knows
what it asked for (chaos_asker.py). The last line is one JSON object; `again_s` is how long what was under way on the
node had been computing when it was killed, of which the steps since the last save are lost.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.chaos import PLAN, Arena
from cluster.films import FilmRequest, request_of
from cluster.journal import Journal, Span
from cluster.store import Store
from engine.models import load_bundle
from engine.plan import load_plan
from engine.settings import ExecutionPlan, RenderSettings
from serving.timeline import draw_timeline, parts_of

NODES, STEPS = 3, 40


def film(store: Store) -> FilmRequest:
    """The example's scenes, nothing to be learned."""
    return request_of(
        load_bundle("miniature"), "miniature", store, plan=load_plan(PLAN), seed=0, learn=False,
        settings=RenderSettings(num_inference_steps=STEPS, guidance_scale=4),
        execution=ExecutionPlan(device="cpu", dtype="float32", threads=1),
    )  # fmt: skip


def spans(store: Store, request: FilmRequest) -> list[Span]:
    assert request.plan
    return Journal(store).spans([job.result for job in request.film(request.plan).scenes])


def kill_a_node(arena: Arena, store: Store, request: FilmRequest, over: threading.Event) -> None:
    """Once every node has begun a scene."""
    while len({name for span in spans(store, request) for name in span.worker}) < NODES and not over.wait(0.1):
        pass
    arena.kill("raylet", store, request, random.Random(0), over)


def asked(arena: Arena, store: Store, request: FilmRequest) -> float:
    """Has it made; seconds."""
    began = time.perf_counter()
    arena.asker.ask(json.dumps({"ask": [request.model_dump(mode="json")], "storage": store.url, "workers": NODES}))
    return time.perf_counter() - began


def run(folder: Path, picture: Path) -> dict[str, Any]:
    store, reference = Store(str(folder / "store")), Store(str(folder / "reference"))
    arena, over, request = Arena(folder), threading.Event(), film(store)
    try:
        killer = threading.Thread(target=kill_a_node, args=(arena, store, request, over))
        killer.start()
        disturbed = asked(arena, store, request)
        over.set()
        killer.join()
        made = spans(store, request)
        arena.end_cluster()
        arena.start()
        undisturbed = asked(arena, reference, request)
        counts = arena.asker.ask(json.dumps({"count": [store.url, reference.url]}))
    finally:
        left = arena.end()
    failed = [span for span in made if span.outcome == "failed"]
    draw_timeline(picture, parts_of([("film", made)]), f"{NODES} nodes, a worker on each; one node is killed")
    return {
        "nodes": NODES, "scenes": len({span.key for span in made}), "attempts": len(made), "failed": len(failed),
        "again_s": [round((span.end or span.start) - span.start, 1) for span in failed],
        "why": list(dict.fromkeys((span.error or "")[:160] for span in failed)), **counts,
        "left_over_processes": left, "time_ratio": round(disturbed / undisturbed, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=Path("nodes.png"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nodes-") as folder:
        print(json.dumps(run(Path(folder), arguments.picture)))


if __name__ == "__main__":
    main()
