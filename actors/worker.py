"""A worker: one resident video model on one GPU (or one CPU slot), which renders scenes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Protocol

import ray

from engine.models import load_bundle
from engine.plan import Scene
from engine.settings import ExecutionPlan, RenderSettings

if TYPE_CHECKING:
    from engine.video_model import VideoModel

NICENESS = 10  # so that HTTP and the studio stay quick beside busy CPU workers


class SceneTask(Protocol):
    """What a worker reads of a scene job."""

    @property
    def scene(self) -> Scene: ...
    @property
    def seed(self) -> int: ...
    @property
    def settings(self) -> RenderSettings: ...
    @property
    def execution(self) -> ExecutionPlan: ...
    @property
    def model(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


class Delivery(Protocol):
    """How a worker reports and hands over; the studio gives one with each job, so workers know no store."""

    def report(self, step: int) -> None: ...
    def put(self, files: dict[str, bytes], notes: dict[str, Any]) -> None: ...


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class Worker:
    """Ray brings it back when its process dies; the job that died with it is the studio's to give again."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.model: VideoModel | None = None
        self.holds: tuple[str, str] | None = None  # its fingerprint and dtype
        if device == "cpu":
            os.nice(NICENESS)

    def ready(self) -> int:
        """The process id, once the worker runs."""
        return os.getpid()

    def render(self, job: SceneTask, delivery: Delivery) -> None:
        """Makes one scene and hands over latents.safetensors and clip.mp4, with notes on how they came about."""
        import torch
        from safetensors.torch import save

        from engine.scene import denoise
        from engine.video import encode_video

        torch.set_num_threads(job.execution.threads)
        began = time.perf_counter()
        model = self._resident(job)
        loaded = time.perf_counter()
        for state in denoise(model, job.scene, job.seed, job.settings):
            delivery.report(state.step)
        denoised = time.perf_counter()
        frames = model.decode(state.latents).numpy()
        clip = encode_video(frames, model.bundle.fps, model.bundle.view_scale)
        seconds = {
            "loading": loaded - began,
            "denoising": denoised - loaded,
            "decoding": time.perf_counter() - denoised,
        }
        notes = {
            "model": model.bundle.name, "seed": job.seed, **job.settings.model_dump(), **job.execution.model_dump(),
            "seconds": {part: round(s, 2) for part, s in seconds.items()},
        }  # fmt: skip
        delivery.put({"latents.safetensors": save({"latents": state.latents.float().cpu()}), "clip.mp4": clip}, notes)

    def _resident(self, job: SceneTask) -> VideoModel:
        """The job's model in the job's dtype, loaded unless it is the one already here."""
        from engine.video_model import VideoModel

        wanted = (job.fingerprint, job.execution.dtype)
        if self.model is None or self.holds != wanted:
            self.model = None  # the old one leaves memory before the new one enters
            bundle = load_bundle(job.model)
            if bundle.fingerprint != job.fingerprint:
                raise RuntimeError(f"the model {job.model} on this machine is not the one the film was asked for")
            self.model, self.holds = VideoModel(bundle, self.device, job.execution.dtype), wanted
        return self.model
