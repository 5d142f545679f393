"""What each job of a film is expected to cost, before anything was measured: the cost model's word, per job."""

from __future__ import annotations

from cluster.films import Job, PriorJob, SceneJob
from engine.cost import CPU_CORE, H100, Cost, Hardware, prior_cost, scene_cost
from engine.models import Bundle

MOTION_PASSES, SUBJECT_PASSES = 1.8, 1.0  # of a learning step, on average


def hardware_of(device: str) -> Hardware:
    return H100 if device == "cuda" else CPU_CORE


def job_cost(job: Job, bundle: Bundle) -> Cost | None:
    """Of a prior or a scene; None for jobs of other kinds, and for a model whose sizes nobody knows."""
    shape = bundle.shape
    if shape is None:
        return None
    if isinstance(job, SceneJob):
        run = job.execution
        return scene_cost(
            shape, len(job.scene.regions) + 1, job.settings.num_inference_steps, hardware_of(run.device),
            run.guidance_degree, run.ulysses_degree,
        )  # fmt: skip
    if isinstance(job, PriorJob):
        hardware = hardware_of(job.execution.device)
        if job.of == "motion":
            return prior_cost(shape, job.settings.steps, job.settings.batch, hardware, MOTION_PASSES)
        learned = job.settings.of_subject()
        return prior_cost(
            shape.of_frames(learned.subject_frames), learned.steps, learned.batch, hardware, SUBJECT_PASSES
        )
    return None
