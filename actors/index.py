"""The index: hosts the motion library, fills it at first use, and finds the clips that show a motion."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

import ray

from actors.orphans import end_with_node
from engine.models import load_bundle

if TYPE_CHECKING:
    from engine.library import Library

NICENESS = 5  # filling must not slow HTTP and the studio; but priors wait for it, so it goes before CPU workers


class ClipsTask(Protocol):
    """What the index reads of a job."""

    @property
    def motion(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def library(self) -> str: ...


class Delivery(Protocol):
    """How the index reports and hands over; see actors/worker.py."""

    def report(self, done: int, total: int) -> None: ...
    def put(self, files: dict[str, bytes], notes: dict[str, Any]) -> None: ...


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class Index:
    """Ray brings it back when its process dies; what it was filling is then begun again, and nothing is there twice."""

    def __init__(self) -> None:
        end_with_node()
        self.library: Library | None = None
        self.holds: tuple[str, str] | None = None  # its bundle and URL
        os.nice(NICENESS)

    def ready(self) -> int:
        """The process id, once the index runs."""
        return os.getpid()

    def retrieve(self, job: ClipsTask, delivery: Delivery) -> None:
        """Finds the motion's clips and hands over retrieval.json and clip-00.mp4, clip-01.mp4, ..., best first. Raises
        InputError when the library has none."""
        library = self._opened(job.model, job.library, delivery)
        retrieval = library.retrieve(job.motion)
        files = {f"clip-{n:02d}.mp4": library.clip(c.id) for n, c in enumerate(retrieval.selected)}
        notes = {
            "motion": job.motion,
            "library_clips": retrieval.clips,
            "kept": {step.name: len(step.kept) for step in retrieval.steps},
            "captions": [c.caption for c in retrieval.selected],
            "scores": [c.score for c in retrieval.selected],
        }
        delivery.put({"retrieval.json": retrieval.model_dump_json(indent=1).encode(), **files}, notes)

    def fingerprint(self, model: str, library: str) -> str:
        """What the library holds, in one hash; an empty one is filled first."""
        return self._opened(model, library, None).fingerprint

    def _opened(self, model: str, url: str, delivery: Delivery | None) -> Library:
        """The library, ready to be asked."""
        import torch

        from engine.filling import no_report, prepare
        from engine.library import Library

        torch.set_num_threads(1)
        if self.library is None or self.holds != (model, url):
            self.library, self.holds = Library(url, load_bundle(model)), (model, url)
        prepare(self.library, delivery.report if delivery else no_report)
        return self.library
