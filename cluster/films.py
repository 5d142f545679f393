"""A film as a graph of jobs, each named by the content key of its result. Pure: no Ray, no torch."""

from __future__ import annotations

from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field

from cluster.store import Store, content_key
from engine.plan import Plan, Scene
from engine.settings import FILM_REVISION, SCENE_REVISION, ExecutionPlan, RenderSettings


class SceneJob(BaseModel):
    """Everything a worker needs to make one scene. `model` is a bundle's name or folder, `fingerprint` its content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scene: Scene
    seed: int
    settings: RenderSettings
    execution: ExecutionPlan
    model: str
    fingerprint: str

    @cached_property
    def key(self) -> str:
        """Narration is no input: a scene whose words to the viewer change is not drawn again."""
        return content_key(
            "scene", SCENE_REVISION, scene=self.scene.model_dump(mode="json", exclude={"narration"}), seed=self.seed,
            settings=self.settings, execution=self.execution, fingerprint=self.fingerprint,
        )  # fmt: skip


class FilmRequest(BaseModel):
    """What a user asks for: a plan with all that decides how it is rendered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: Plan
    seed: int = Field(ge=0, lt=2**63)
    settings: RenderSettings
    execution: ExecutionPlan
    model: str
    fingerprint: str

    @cached_property
    def jobs(self) -> tuple[SceneJob, ...]:
        """One job per scene, in the film's order."""
        shared = self.model_dump(exclude={"plan"})
        return tuple(SceneJob(scene=scene, **shared) for scene in self.plan.scenes)

    @cached_property
    def key(self) -> str:
        """The film's content key: its scenes' keys in order."""
        return content_key("film", FILM_REVISION, scenes=[job.key for job in self.jobs])

    def finished(self, store: Store) -> bool:
        """Whether the film and all its scenes are in the store."""
        wanted = [("film", self.key), *(("scene", job.key) for job in self.jobs)]
        return all(store.record(kind, key) is not None for kind, key in wanted)
