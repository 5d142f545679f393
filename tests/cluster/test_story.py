"""A story through every part: planner, index, priors, scenes of two workers."""

from __future__ import annotations

import json
import os
import signal

import pytest
import ray
from ray.util.state import list_actors
from safetensors.torch import load

from cluster.client import FilmFailed, render_films
from cluster.films import FilmRequest, keep_image, request_of
from cluster.store import Store
from engine.models import load_bundle
from engine.plan import Plan, Region, Scene
from engine.settings import ExecutionPlan, RenderSettings
from engine.story import make_story
from engine.video_model import VideoModel
from tests.conftest import ROOT

pytestmark = pytest.mark.cluster
STORY = "In the forest a ghost spins around.\n\nIn the city a robot is dancing."


def _request(store: Store, seed: int = 0, execution: dict | None = None, workers: int = 1, **what) -> FilmRequest:
    """`workers`: that learn a prior together."""
    bundle = load_bundle("miniature")
    learning = {"steps": 4, "subject_steps": 3, "workers": workers}
    few = bundle.model_copy(update={"priors": bundle.priors.model_copy(update=learning)})
    return request_of(
        few, "miniature", store, seed=seed, settings=RenderSettings(num_inference_steps=3, guidance_scale=3),
        execution=ExecutionPlan(device="cpu", dtype="float32", threads=1, **(execution or {})), **what,
    )  # fmt: skip


@pytest.fixture(scope="module")
def told(ray_of_two, tmp_path_factory) -> tuple[Store, FilmRequest, list[dict], list[str]]:
    """The film of a small story: its store, its request, the states seen, the kinds of actors that were alive."""
    store, states, alive = Store(str(tmp_path_factory.mktemp("story"))), [], set()
    story, images = make_story("s", "A small one", STORY, {"ghost": [(ROOT / "examples" / "ghost.png").read_bytes()]})
    for image in images.values():
        keep_image(store, image)
    request = _request(store, story=story)
    looked: set[str] = set()

    def watch(seen) -> None:
        states.append(seen[0])
        under_way = {job["kind"] for job in seen[0]["jobs"] if job["state"] == "running"}
        if not under_way <= looked:  # once for each kind of job: asking Ray is slow
            looked.update(under_way)
            alive.update(
                a.class_name for a in list_actors(address=ray.get_runtime_context().gcs_address) if a.state == "ALIVE"
            )

    render_films(store, [request], 2, None, watch)
    return store, request, states, sorted(alive)


def test_every_part_had_its_turn(told) -> None:
    store, request, _, alive = told
    film = request.finished(store)
    assert film
    assert {job.kind for job in film.jobs} == {"clips", "prior", "scene"}
    assert {(prior.of, prior.name) for prior in film.priors} == {("motion", "spins around"), ("subject", "ghost")}
    assert {"Studio", "Planner", "Index", "Worker"} <= set(alive)
    assert [scene.narration for scene in film.plan.scenes] == STORY.split("\n\n")
    answers = json.loads(store.get(*request.plan_job.result, "answers.json"))
    assert len(answers) >= 3  # one for the story, one a scene


def test_scenes_wait_for_their_own_priors_alone(told) -> None:
    """The robot's scene needs none: it begins while the ghost's priors are being learned, or before."""
    _, _, states, _ = told
    for state in states:
        jobs = {(job["kind"], job["id"]): job["state"] for job in state["jobs"]}
        priors = [s for (kind, _), s in jobs.items() if kind == "prior"]
        scenes = [s for (kind, name), s in jobs.items() if kind == "scene" and "forest" in name]
        if any(s != "waiting" for s in scenes):
            assert all(p == "done" for p in priors)


def test_the_planner_ends_when_planning_is_done(told) -> None:
    assert not [
        a
        for a in list_actors(address=ray.get_runtime_context().gcs_address)
        if a.class_name == "Planner" and a.state == "ALIVE"
    ]


def test_a_prior_is_learned_once(told) -> None:
    """Another film with the same motion: its clips and its prior are in the store."""
    store, _, _, _ = told
    region = Region(
        entity="robot", motion="spins around", caption="a robot spins around on the beach",
        boxes={"1-6": [0.2, 0.1, 0.8, 1.0]},
    )  # fmt: skip
    plan = Plan(scenes=(Scene(id="turn", background="a sunny beach", regions=(region,)),))
    states: list[dict] = []
    render_films(store, [_request(store, plan=plan)], 2, None, lambda s: states.append(s[0]))
    assert {job["kind"] for state in states for job in state["jobs"] if job["state"] == "running"} <= {"scene"}


def _one_scene(told) -> Plan:
    """The plan's first scene, with the ghost that spins: two priors, one scene."""
    store, request, _, _ = told
    plan = request.finished(store).plan
    return plan.model_copy(update={"scenes": plan.scenes[:1]})


def _killing_learners(killed: list[int]):
    """A watch that kills both workers with SIGKILL once a prior has begun its steps."""

    def watch(states) -> None:
        if not killed and any(
            j["kind"] == "prior" and j["state"] == "running" and j["step"] for j in states[0]["jobs"]
        ):
            for worker in [
                a
                for a in list_actors(address=ray.get_runtime_context().gcs_address)
                if a.class_name == "Worker" and a.state == "ALIVE"
            ]:
                os.kill(worker.pid, signal.SIGKILL)
                killed.append(worker.pid)

    return watch


@pytest.mark.long
def test_workers_that_die_in_priors_change_nothing(told, tmp_path) -> None:
    store, plan, other = told[0], _one_scene(told), Store(str(tmp_path))
    undisturbed = _request(store, plan=plan)
    render_films(store, [undisturbed], 2, None, lambda s: None)
    for sha256 in plan.characters["ghost"].images:
        keep_image(other, store.read(f"inputs/{sha256}"))
    killed: list[int] = []
    render_films(other, [undisturbed], 2, None, _killing_learners(killed))
    assert len(killed) == 2
    assert _film(other, undisturbed) == _film(store, undisturbed)


def test_two_workers_make_one_scene(told) -> None:
    """Within one grey level of one worker's."""
    store, plan = told[0], _one_scene(told)
    alone, both = _request(store, plan=plan), _request(store, plan=plan, execution={"guidance_degree": 2})
    render_films(store, [alone, both], 2, None, lambda s: None)
    assert _grey_levels_apart(store, alone, both) <= 1


def _grey_levels_apart(store: Store, one: FilmRequest, other: FilmRequest) -> int:
    """How far the first scenes' frames are apart, as decoded, before x264 sees them."""
    model, frames = VideoModel(load_bundle("miniature")), []
    for request in (one, other):
        latents = load(store.get(*request.finished(store).scenes[0].result, "latents.safetensors"))["latents"]
        frames.append(model.decode(latents).int())
    return int((frames[0] - frames[1]).abs().max())


def _film(store: Store, request: FilmRequest) -> bytes:
    return store.get("film", request.finished(store).key, "film.mp4")


def test_a_motion_without_clips_ends_its_film_alone(told) -> None:
    store, _, _, _ = told
    region = Region(entity="fox", motion="yodels", caption="a fox yodels", boxes={"1-6": [0, 0, 1, 1]})
    plan = Plan(scenes=(Scene(id="alps", background="snow", regions=(region,)),))
    good = Plan(scenes=(Scene(id="calm", background="a field of snow"),))
    with pytest.raises(FilmFailed, match=r"clips yodels: .*yodels.*library add"):
        render_films(store, [_request(store, plan=plan), _request(store, plan=good)], 2, None, lambda s: None)
    assert _request(store, plan=good).finished(store)
