"""How scenes are rendered: what a user may choose, and the execution plan that fixes the arithmetic. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.errors import InputError

SCENE_REVISION = 3  # raise it whenever the same inputs give other latents or another clip
FILM_REVISION = 2  # raise it whenever the same clips give another film


class RenderSettings(BaseModel):
    """How a scene is denoised."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_inference_steps: int = Field(ge=2, le=1000)
    guidance_scale: float = Field(ge=1, le=50)
    negative_prompt: str = ""
    cache: float | None = Field(
        default=None, gt=0, le=1, exclude_if=lambda threshold: threshold is None,
        description="FirstBlockCache: how little the first block's output may change for a step to reuse the rest",
    )  # fmt: skip


class ExecutionPlan(BaseModel):
    """What besides its inputs decides a scene's last bits. Chosen once per film, kept by every retry and resume.

    Degrees of 1 are not written down: a plan for one worker names its results as it did before there were degrees.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16", "float16"]
    threads: int = Field(ge=1, description="CPU threads of a worker")
    guidance_degree: int = Field(1, ge=1, le=2, exclude_if=lambda n: n == 1, description="2: a worker per branch")
    ulysses_degree: int = Field(1, ge=1, exclude_if=lambda n: n == 1, description="workers that share a branch")

    @property
    def world_size(self) -> int:
        """Workers of one scene."""
        return self.guidance_degree * self.ulysses_degree


def check_cache(settings: RenderSettings, execution: ExecutionPlan) -> None:
    """Raises InputError for a step cache in a scene of several workers."""
    if settings.cache is not None and execution.world_size > 1:
        raise InputError(
            f"--cache {settings.cache:g}: every worker would decide for itself which steps to skip, and this scene has "
            f"{execution.world_size} workers (guidance_degree {execution.guidance_degree} x ulysses_degree "
            f"{execution.ulysses_degree}); leave the cache out, or set both degrees to 1"
        )


def check_degrees(execution: ExecutionPlan, heads: int, tokens: int, workers: int | None = None) -> None:
    """Raises InputError unless the model's attention heads can be shared out and `workers` (if given) are enough.

    Visual tokens need not divide: they are padded. Ulysses gives each worker whole heads, so heads must.
    """
    degree = execution.ulysses_degree
    if heads % degree:
        whole = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise InputError(
            f"execution.ulysses_degree: {degree} workers cannot share {heads} attention heads "
            f"({tokens} visual tokens); choose one of {whole}"
        )
    if workers is not None and execution.world_size > workers:
        raise InputError(
            f"execution: guidance_degree {execution.guidance_degree} x ulysses_degree {degree} = "
            f"{execution.world_size} workers, but there are {workers}; lower a degree or add workers"
        )
