"""A film as a graph of jobs, each named by the content key of its result: plan -> clips -> priors -> scenes -> film.

Pure: no Ray, no torch. What a film needs is known as soon as its plan is; what can start is a question to the store.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.store import Store, content_key
from engine.errors import InputError
from engine.models import Bundle, PlannerModel, PriorSettings
from engine.plan import NONE, Character, Plan, Scene, parse_plan
from engine.settings import FILM_REVISION, SCENE_REVISION, ExecutionPlan, RenderSettings
from engine.story import Story

PLAN_REVISION = 11
CLIPS_REVISION = 1
PRIOR_REVISION = 3
PRIOR_SEED = 0  # one prior serves films of every seed

Result = tuple[str, str]  # kind, key: where the store has it


class Job(BaseModel):
    """One result to be made. `model` is a bundle's name or folder, `fingerprint` its content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ClassVar[str]
    model: str
    fingerprint: str

    @property
    def key(self) -> str:
        raise NotImplementedError

    @property
    def label(self) -> str:
        """What people call it."""
        raise NotImplementedError

    @property
    def slot(self) -> str:
        """Its name in the schedule: the key, unless that is not settled yet."""
        return self.key

    @property
    def needs(self) -> tuple[Result, ...]:
        """Results that must be in the store before it starts."""
        return ()

    @property
    def workers(self) -> int:
        """How many GPU workers it takes; 0 for those that have a host of their own."""
        return 1

    @property
    def result(self) -> Result:
        return self.kind, self.key


class PlanJob(Job):
    """A story's plan, by the language model; `planner` when it is another than the bundle's."""

    kind: ClassVar[str] = "plan"
    story: Story
    seed: int
    planner: PlannerModel | None = None

    @cached_property
    def key(self) -> str:
        return content_key("plan", PLAN_REVISION, story=self.story, fingerprint=self.fingerprint, seed=self.seed)

    @property
    def label(self) -> str:
        return "plan"

    @property
    def workers(self) -> int:
        return 0


class ClipsJob(Job):
    """The clips that show a motion, from the library. `version` changes when somebody adds to it."""

    kind: ClassVar[str] = "clips"
    motion: str
    library: str
    version: str

    @cached_property
    def key(self) -> str:
        return content_key(
            "clips", CLIPS_REVISION, motion=self.motion, fingerprint=self.fingerprint, version=self.version
        )

    @property
    def label(self) -> str:
        return self.motion

    @property
    def workers(self) -> int:
        return 0


class PriorJob(Job):
    """A LoRA: of a motion, from the clips that `clips` found, or of a character, from images (sha256)."""

    kind: ClassVar[str] = "prior"
    of: Literal["motion", "subject"]
    name: str
    phrase: str
    clips: str = ""
    images: tuple[str, ...] = ()
    settings: PriorSettings
    seed: int
    execution: ExecutionPlan

    @cached_property
    def key(self) -> str:
        return content_key(
            "prior", PRIOR_REVISION, of=self.of, phrase=self.phrase, clips=self.clips, images=list(self.images),
            settings=self.settings, seed=self.seed, execution=self.execution, fingerprint=self.fingerprint,
        )  # fmt: skip

    @property
    def label(self) -> str:
        return self.name

    @property
    def needs(self) -> tuple[Result, ...]:
        return (("clips", self.clips),) if self.clips else ()

    @property
    def workers(self) -> int:
        return self.settings.workers


class PriorUse(BaseModel):
    """A LoRA in a scene: it acts on the regions whose motion (or entity) is `name`, never by searching in captions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: Literal["motion", "subject"]
    name: str
    key: str


class SceneJob(Job):
    """One scene's latents and clip. `automatic`: the studio may still split it, when it starts; `was`: the key it had
    before that."""

    kind: ClassVar[str] = "scene"
    automatic: bool = False
    was: str = ""
    scene: Scene
    seed: int
    settings: RenderSettings
    execution: ExecutionPlan
    priors: tuple[PriorUse, ...] = ()

    @cached_property
    def key(self) -> str:
        """Narration is no input: a scene whose words to the viewer change is not drawn again."""
        return content_key(
            "scene", SCENE_REVISION, scene=self.scene.model_dump(mode="json", exclude={"narration"}), seed=self.seed,
            settings=self.settings, execution=self.execution, fingerprint=self.fingerprint,
            priors=[use.model_dump() for use in self.priors],
        )  # fmt: skip

    @property
    def slot(self) -> str:
        return self.was or self.key

    @property
    def label(self) -> str:
        return self.scene.id

    def settled(self, execution: ExecutionPlan) -> SceneJob:
        """The same by this execution plan, for good."""
        about = {name: getattr(self, name) for name in type(self).model_fields}
        return SceneJob(**{**about, "execution": execution, "automatic": False, "was": self.slot})

    @property
    def needs(self) -> tuple[Result, ...]:
        return tuple(("prior", use.key) for use in self.priors)

    @property
    def workers(self) -> int:
        return self.execution.world_size


@dataclass(frozen=True, eq=False)
class Film:
    """A planned film: all its jobs, and the key of what they make together."""

    plan: Plan
    clips: tuple[ClipsJob, ...]
    priors: tuple[PriorJob, ...]
    scenes: tuple[SceneJob, ...]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """In the order in which they are worth starting."""
        return *self.clips, *self.priors, *self.scenes

    @cached_property
    def key(self) -> str:
        told = [scene.narration for scene in self.plan.scenes]
        return content_key("film", FILM_REVISION, scenes=[job.key for job in self.scenes], narration=told)


class FilmRequest(BaseModel):
    """What a user asks for: a story, or its plan, with all that decides how it is rendered. `known_motions` need no
    prior; None: every motion gets one. `library_version`: see ClipsJob."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    story: Story | None = None
    plan: Plan | None = None
    seed: int = Field(ge=0, lt=2**63)
    settings: RenderSettings
    execution: ExecutionPlan
    model: str
    fingerprint: str
    planner: PlannerModel | None = None
    planner_fingerprint: str = ""
    library_fingerprint: str = ""
    known_motions: tuple[str, ...] | None = None
    prior_settings: PriorSettings = PriorSettings()
    learn: bool = True
    library: str = ""
    library_version: str = ""
    automatic: bool = Field(
        default=False, exclude_if=lambda automatic: not automatic,
        description="each scene's degrees are chosen when it starts, by how many workers have nothing else to do",
    )  # fmt: skip

    takes: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={}, exclude_if=lambda takes: not takes,
        description="scene id -> which take of it; the first is usual, others have noise of their own",
    )  # fmt: skip

    @model_validator(mode="after")
    def _one_of_both(self) -> FilmRequest:
        if (self.story is None) == (self.plan is None):
            raise ValueError("a film is asked for by a story or by a plan, one of both")
        if self.automatic and self.execution.world_size > 1:
            raise ValueError("a film's degrees are given or chosen automatically, one of both")
        return self

    @cached_property
    def key(self) -> str:
        """The request's own name, in the journal and for clients. Where things lie is no part of it."""
        return content_key(
            "request", FILM_REVISION, asked=self.model_dump(mode="json", exclude={"model", "library", "planner"})
        )

    @cached_property
    def plan_job(self) -> PlanJob | None:
        if self.story is None:
            return None
        return PlanJob(
            story=self.story, seed=self.seed, planner=self.planner, model=self.model,
            fingerprint=self.planner_fingerprint,
        )  # fmt: skip

    def stored_plan(self, store: Store) -> Plan | None:
        """The plan, given or made; None while it is not made yet."""
        if self.plan_job is None:
            return self.plan
        if store.record(*self.plan_job.result) is None:
            return None
        plan = parse_plan(store.get(*self.plan_job.result, "plan.yaml").decode(), "the story's plan")
        assert self.story
        return plan.model_copy(update={"characters": story_characters(self.story)})

    def film(self, plan: Plan) -> Film:
        """All jobs of the film, once its plan is there. Raises InputError for takes of scenes that it does not have."""
        ids = [scene.id for scene in plan.scenes]
        if missing := [name for name in self.takes if name not in ids]:
            raise InputError(f"--take {missing[0]}: the film has no such scene; it has {', '.join(ids)}")
        shared: dict[str, Any] = {"model": self.model, "fingerprint": self.fingerprint}
        alone = self.execution.model_copy(update={"guidance_degree": 1, "ulysses_degree": 1})
        learned: dict[str, Any] = {**shared, "settings": self.prior_settings, "seed": PRIOR_SEED, "execution": alone}
        regions = [region for scene in plan.scenes for region in scene.regions]
        motions = dict.fromkeys(r.motion for r in regions if r.motion != NONE)
        unknown = [m for m in motions if self.known_motions is None or m not in self.known_motions]
        clips: list[ClipsJob] = []
        priors: list[PriorJob] = []
        for motion in unknown if self.learn else ():
            found = ClipsJob(
                motion=motion, library=self.library, version=self.library_version,
                model=self.model, fingerprint=self.library_fingerprint,
            )  # fmt: skip
            clips.append(found)
            priors.append(PriorJob(of="motion", name=motion, phrase=motion, clips=found.key, **learned))
        entities = {region.entity for region in regions}
        for name, character in plan.characters.items() if self.learn else ():
            if name in entities:
                priors.append(
                    PriorJob(of="subject", name=name, phrase=character.phrase, images=character.images, **learned)
                )
        uses = {(p.of, p.name): PriorUse(of=p.of, name=p.name, key=p.key) for p in priors}

        def scene_job(scene: Scene) -> SceneJob:
            wanted = [("motion", r.motion) for r in scene.regions] + [("subject", r.entity) for r in scene.regions]
            mine = tuple(uses[w] for w in dict.fromkeys(wanted) if w in uses)
            seed = take_seed(self.seed, self.takes.get(scene.id, 1))
            return SceneJob(
                scene=scene, seed=seed, settings=self.settings, execution=self.execution, priors=mine,
                automatic=self.automatic, **shared,
            )  # fmt: skip

        return Film(plan, tuple(clips), tuple(priors), tuple(scene_job(scene) for scene in plan.scenes))

    @property
    def workers(self) -> int:
        """How many it can use at once, as far as that is known before it is planned."""
        if self.plan is None or self.automatic:
            return sys.maxsize
        film = self.film(self.plan)
        return sum(job.workers for job in (*film.priors, *film.scenes))

    @property
    def together(self) -> int:
        """The most workers that share one of its jobs, as far as the request says."""
        return max(self.execution.world_size, self.prior_settings.workers if self.learn else 1)

    def finished(self, store: Store) -> Film | None:
        """The film, when it and all its scenes are in the store."""
        plan = self.stored_plan(store)
        if plan is None:
            return None
        film = settled_film(self.film(plan), store)
        wanted = [("film", film.key), *(job.result for job in film.scenes)]
        return film if all(store.record(*result) is not None for result in wanted) else None


def take_seed(seed: int, take: int) -> int:
    """A scene's seed in its first, second, ... take."""
    return seed if take == 1 else int.from_bytes(hashlib.sha256(f"{seed} take {take}".encode()).digest()[:7], "big")


def settled_film(film: Film, store: Store) -> Film:
    """The film with the execution plans that were chosen for its scenes so far."""
    if not any(job.automatic for job in film.scenes):
        return film
    return replace(film, scenes=tuple(settled_scene(job, store) for job in film.scenes))


def settled_scene(job: SceneJob, store: Store, choice: ExecutionPlan | None = None) -> SceneJob:
    """The scene by the execution plan on record; by `choice`, which goes on record, when there is none yet."""
    if job.automatic and choice:
        store.write_new(execution_name(job), choice.model_dump_json().encode())
    data = store.read(execution_name(job)) if job.automatic else None
    return job.settled(ExecutionPlan.model_validate_json(data)) if data else job


def execution_name(job: SceneJob) -> str:
    """Where the execution plan that was chosen for a scene is on record."""
    return f"executions/{job.slot}.json"


def story_characters(story: Story) -> dict[str, Character]:
    """The story's given characters as a plan's: the k-th is "[vk] name" in captions."""
    return {
        name: Character(phrase=f"[v{number}] {name}", images=images)
        for number, (name, images) in enumerate(story.characters.items(), 1)
    }


def input_name(sha256: str) -> str:
    """Where the store keeps a reference image."""
    return f"inputs/{sha256}"


def keep_image(store: Store, data: bytes) -> str:
    """Puts a reference image into the store; returns its sha256."""
    digest = hashlib.sha256(data).hexdigest()
    store.write_new(input_name(digest), data)
    return digest


def request_of(bundle: Bundle, model: str, storage: Store, **values: Any) -> FilmRequest:
    """A request for a bundle's model on a storage; `values` are the request's own fields."""
    library = f"{storage.url}/library/{bundle.name}"
    version = storage.read(f"library/{bundle.name}.version") or b""
    return FilmRequest(
        model=model, fingerprint=bundle.fingerprint, planner=bundle.planner,
        planner_fingerprint=bundle.planner_fingerprint, library_fingerprint=bundle.library_fingerprint,
        known_motions=bundle.words.motions if bundle.words else None, prior_settings=bundle.priors,
        library=library, library_version=version.decode(), **values,
    )  # fmt: skip
