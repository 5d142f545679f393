"""A worker: one resident video model on one GPU (or one CPU slot), which learns priors and renders scenes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, Protocol

import ray

from actors.orphans import end_with_node
from engine.models import Bundle, PriorSettings, load_bundle
from engine.plan import Scene
from engine.settings import ExecutionPlan, RenderSettings

if TYPE_CHECKING:
    from engine.encodings import Shelf
    from engine.priors import TrainingClip
    from engine.render import Bound
    from engine.unfinished import Saves
    from engine.video_model import VideoModel

THREADS = 4  # a job, the one before it, and questions
NICENESS = 10  # so that HTTP and the studio stay quick beside busy CPU workers


class WorkerTask(Protocol):
    """What a worker reads of any job."""

    @property
    def seed(self) -> int: ...
    @property
    def execution(self) -> ExecutionPlan: ...
    @property
    def model(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


class SceneTask(WorkerTask, Protocol):
    @property
    def scene(self) -> Scene: ...
    @property
    def settings(self) -> RenderSettings: ...
    @property
    def priors(self) -> Sequence[Bound]: ...


class PriorTask(WorkerTask, Protocol):
    @property
    def of(self) -> Literal["motion", "subject"]: ...
    @property
    def name(self) -> str: ...
    @property
    def phrase(self) -> str: ...
    @property
    def clips(self) -> str: ...
    @property
    def images(self) -> tuple[str, ...]: ...
    @property
    def settings(self) -> PriorSettings: ...


class Delivery(Protocol):
    """How a worker gets its inputs, reports and hands over; the studio gives one with each job, so workers know no
    store."""

    def report(self, done: int, total: int) -> None: ...
    def hand_back(self) -> None: ...
    def fetch(self, result: tuple[str, str]) -> dict[str, bytes]: ...
    def image(self, sha256: str) -> bytes: ...
    def put(self, files: dict[str, bytes], notes: dict[str, Any]) -> None: ...
    def saves(self, rank: int = 0) -> Saves: ...
    def shelf(self) -> Shelf: ...


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=THREADS)
class Worker:
    """Ray brings it back when its process dies; the jobs that died with it are the studio's to give again.

    It denoises and learns one job at a time. While it has the next scene, the last one is decoded and encoded by
    another thread, where the GPU has memory for both.
    """

    def __init__(self, device: str) -> None:
        end_with_node()
        self.device = device
        self.model: VideoModel | None = None
        self.holds: tuple[str, str] | None = None  # its fingerprint and dtype
        self.turn, self.decoding = threading.Lock(), threading.Lock()
        if device == "cpu":
            os.nice(NICENESS)

    def where(self) -> tuple[str, str]:
        """What it computes on, the GPU's name or cpu, and the id of its node."""
        node = ray.get_runtime_context().get_node_id()
        if self.device == "cpu":
            return "cpu", node
        import torch

        return torch.cuda.get_device_name(), node

    def address(self) -> str:
        """Where this worker can listen for the others of a scene: host:port, free just now."""
        from engine.groups import free_address

        return free_address(ray.util.get_node_ip_address())

    def render(self, job: SceneTask, delivery: Delivery, rank: int = 0, address: str = "") -> None:
        """Makes one scene, as member `rank` of its workers. Member 0 hands over latents.safetensors and clip.mp4, with
        notes on how they came about."""
        with ExitStack() as turn:
            turn.enter_context(self.turn)
            import torch  # after its turn has come: two threads that import it at once get halves of it
            from safetensors.torch import save

            from engine.render import render_clip

            torch.set_num_threads(job.execution.threads)
            began = time.perf_counter()
            model = self._resident(job)
            model.encodings.shelf = delivery.shelf()
            loading = time.perf_counter() - began

            def hand_back() -> None:
                if self._has_room(model.bundle):
                    turn.close()
                    turn.enter_context(self.decoding)
                    delivery.hand_back()

            made = render_clip(
                model, job.scene, job.seed, job.settings, job.execution, job.priors,
                lambda key: delivery.fetch(("prior", key))["prior.safetensors"], delivery.report, rank, address,
                delivery.saves(), hand_back,
            )  # fmt: skip
        if made is None:
            return
        seconds = {"loading": loading, **made.seconds}
        notes = {
            "model": model.bundle.name, "seed": job.seed, **job.settings.model_dump(), **job.execution.model_dump(),
            "priors": [use.name for use in job.priors], "seconds": {part: round(s, 2) for part, s in seconds.items()},
        }  # fmt: skip
        delivery.put({"latents.safetensors": save({"latents": made.latents}), "clip.mp4": made.clip}, notes)

    def learn(self, job: PriorTask, delivery: Delivery, rank: int = 0, address: str = "") -> None:
        """Learns one prior, as member `rank` of its workers. Member 0 hands over prior.safetensors (stock diffusers'
        LoRA format) and card.json."""
        with self.turn:
            import torch

            from engine.groups import Ranks
            from engine.priors import learn_motion, learn_subject
            from engine.story import read_image

            torch.set_num_threads(job.execution.threads)
            model = self._resident(job)
            model.encodings.shelf = delivery.shelf()
            ranks, saves = Ranks(rank, job.settings.workers, address), delivery.saves(rank)
            report = delivery.report if rank == 0 else lambda done, total: None
            if job.of == "motion":
                clips = training_clips(delivery.fetch(("clips", job.clips)))
                prior = learn_motion(model, clips, job.settings, job.seed, report, ranks, saves)
            else:
                images = [read_image(delivery.image(sha256)) for sha256 in job.images]
                prior = learn_subject(model, images, job.phrase, job.settings, job.seed, report, ranks, saves)
        if rank > 0:
            return
        card = {"name": job.name, **prior.card}
        delivery.put({"prior.safetensors": prior.weights, "card.json": json.dumps(card).encode()}, {"of": job.of})

    def _resident(self, job: WorkerTask) -> VideoModel:
        """The job's model in the job's dtype, loaded unless it is the one already here."""
        import torch

        from engine.video_model import VideoModel

        wanted = (job.fingerprint, job.execution.dtype)
        if self.model is None or self.holds != wanted:
            with self.decoding:
                self.model = None  # the old one leaves memory before the new one enters
            bundle = load_bundle(job.model)
            if bundle.fingerprint != job.fingerprint:
                raise RuntimeError(f"the model {job.model} on this machine is not the one the film was asked for")
            if self.device == "cuda":
                gpu = torch.cuda.get_device_properties(0)
                bundle.check_gpu(gpu.total_memory / 1e9, gpu.name)
            self.model, self.holds = VideoModel(bundle, self.device, job.execution.dtype), wanted
        return self.model

    def _has_room(self, bundle: Bundle) -> bool:
        """Whether one scene can be decoded while the next is denoised."""
        if self.device == "cpu":
            return True
        import torch

        return bundle.memory_gb.of_two_scenes * 1e9 <= torch.cuda.get_device_properties(0).total_memory


def training_clips(files: dict[str, bytes]) -> list[TrainingClip]:
    """What the index found: the clips named in retrieval.json, with their captions."""
    from engine.priors import TrainingClip
    from engine.retrieval import Retrieval
    from engine.video import read_video

    found = Retrieval.model_validate_json(files["retrieval.json"])
    videos = [files[name] for name in sorted(files) if name.endswith(".mp4")]
    chosen = zip(found.selected, videos, strict=True)
    return [TrainingClip(hit.id, hit.caption, read_video(video)[0]) for hit, video in chosen]
