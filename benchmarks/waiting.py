"""A worker that renders nothing: it waits, reports, and hands over a tiny clip. It imports no torch."""

from __future__ import annotations

import sys
import time
from typing import Any

import ray

STEPS = 50  # of a scene, each reported


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class Waiter:
    """In the place of actors/worker.py's. A scene's background says how long: "waiting 1.0"."""

    def __init__(self, device: str) -> None:
        import numpy as np

        from engine.video import encode_video

        self.clip = encode_video(np.zeros((8, 16, 16, 3), np.uint8), 8)

    def where(self) -> tuple[str, str]:
        return "cpu", ray.get_runtime_context().get_node_id()

    def render(self, job: Any, delivery: Any, rank: int = 0, address: str = "") -> None:
        began, seconds = time.perf_counter(), float(job.scene.background.split()[-1])
        for step in range(1, STEPS + 1):
            time.sleep(max(0.0, began + seconds * step / STEPS - time.perf_counter()))
            delivery.report(step, STEPS)
        delivery.put({"clip.mp4": self.clip}, {"torch": "torch" in sys.modules})
