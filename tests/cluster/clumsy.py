"""A worker that imports no torch, and goes wrong as the scene's background says."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ray

STEPS = 5


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=4)
class Clumsy:
    """ "well"; "broken": fails always; "hangs FILE": hangs at step 2 the first time, which FILE then remembers;
    "decodes": hands back early, and takes its time; "dies FILE": the same, but the first time its process dies."""

    def __init__(self, device: str) -> None:
        import numpy as np

        from engine.video import encode_video

        self.clip = encode_video(np.zeros((8, 16, 16, 3), np.uint8), 8)

    def where(self) -> tuple[str, str]:
        return "cpu", ray.get_runtime_context().get_node_id()

    def render(self, job: Any, delivery: Any, rank: int = 0, address: str = "") -> None:
        what, _, file = job.scene.background.partition(" ")
        if what == "broken":
            raise RuntimeError("out of paint")
        for step in range(1, STEPS + 1):
            time.sleep(0.02)
            delivery.report(step, STEPS)
            if what == "hangs" and step == 2 and not Path(file).exists():
                Path(file).write_text(str(os.getpid()))
                time.sleep(600)
        if what in ("decodes", "dies"):
            delivery.hand_back()
            time.sleep(0.5)
        if what == "dies" and not Path(file).exists():
            Path(file).touch()
            os._exit(1)
        delivery.put({"clip.mp4": self.clip}, {})
