"""How scenes are rendered: what a user may choose, and the execution plan that fixes the arithmetic. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCENE_REVISION = 1  # raise it whenever the same inputs give other latents or another clip
FILM_REVISION = 1  # raise it whenever the same clips give another film


class RenderSettings(BaseModel):
    """How a scene is denoised."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_inference_steps: int = Field(ge=2, le=1000)
    guidance_scale: float = Field(ge=1, le=50)
    negative_prompt: str = ""


class ExecutionPlan(BaseModel):
    """What besides its inputs decides a scene's last bits. Chosen once per film, kept by every retry and resume."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16", "float16"]
    threads: int = Field(ge=1, description="CPU threads of a worker")
