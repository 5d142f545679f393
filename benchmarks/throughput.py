"""Scenes per minute of the whole engine, against one process per scene and against a bare loop without Ray.

    python -m benchmarks.throughput [--films 3] [--steps N] [--learn none|one|all] [--sample N]

The same plans, seeds, steps, dtype and priors in all of them:
- engine: one studio with two workers; cold = from nothing to the last film, warm = workers and priors are there, and
  other seeds are rendered;
- vs_process_per_scene: the released way, a fresh process for each scene, two at a time. It keeps nothing, so each
  process learns the priors of its scene itself, for every film again: cold and warm are held against the same run;
- vs_process_with_stored_priors: the same with more mercy: each prior is learned once, by a process of its own, before
  the scenes (cold), or lies on disk already (warm);
- vs_bare_loop: the better of one process with two threads and two processes with one, everything loaded, no Ray.
`--learn`: how many scenes of each film show a motion that must be learned: none, the last one, or all, as in the paper,
where every motion is learned (six motions, the same in every film). The engine makes all scenes; with `--sample N` the
others make the first N, and learn N priors, whose seconds stand for all, as each of their processes begins anew.
predicted_2b_h100 is no measurement: the same films with CogVideoX-2B on eight H100s by the cost model.
The last line is one JSON object; "seconds" has start-up, priors and denoising apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cluster.films import FilmRequest, PriorJob, SceneJob, request_of
from cluster.store import Store
from engine.cost import COGVIDEOX_2B, H100, prior_cost, scene_cost
from engine.models import load_bundle
from engine.plan import Region, Scene, load_plan
from engine.settings import ExecutionPlan, RenderSettings

if TYPE_CHECKING:
    from engine.video_model import VideoModel

console = Console(stderr=True)
PLAN = Path(__file__).parent.parent / "examples" / "the-fox-and-the-robot.plan.yaml"
NEW_MOTION = "zigzags across"
H100S, LOAD_S = 8, 30.0  # assumed: a process imports, reads 14 GB of 2B and T5, and moves them to its GPU


class Learn(StrEnum):
    """Which scenes of a film show a motion that must be learned."""

    none = "none"
    one = "one"
    all = "all"


def requests(store: Store, films: int, first_seed: int, steps: int | None, learn: Learn) -> list[FilmRequest]:
    """Films of the example's plan with different seeds; the first actor of the last scene, or of each, does a motion
    that must be learned."""
    bundle = load_bundle("miniature")
    assert bundle.words
    plan = load_plan(PLAN)
    first = {Learn.none: len(plan.scenes), Learn.one: len(plan.scenes) - 1, Learn.all: 0}[learn]
    motions = itertools.cycle(bundle.words.library_motions if learn == Learn.all else [NEW_MOTION])
    scenes = (*plan.scenes[:first], *(learning(scene, next(motions)) for scene in plan.scenes[first:]))
    plan = plan.model_copy(update={"scenes": scenes})
    settings = RenderSettings(
        num_inference_steps=steps or bundle.num_inference_steps, guidance_scale=bundle.guidance_scale
    )
    execution = ExecutionPlan(device="cpu", dtype="float32", threads=1)
    return [
        request_of(bundle, "miniature", store, plan=plan, seed=seed, settings=settings, execution=execution)
        for seed in range(first_seed, first_seed + films)
    ]


def learning(scene: Scene, motion: str) -> Scene:
    """The scene with its first actor alone, all over the picture, in a motion that the model does not know."""
    actor = scene.regions[0].entity
    region = Region(
        entity=actor, motion=motion, caption=f"a {actor} {motion} in {scene.background}",
        boxes={"1-6": [0.0, 0.04, 1.0, 0.98]},
    )  # fmt: skip
    return scene.model_copy(update={"regions": (region,)})


def engine(folder: Path, films: int, steps: int | None, learn: Learn) -> dict[str, float]:
    """Seconds of a cold and of a warm run, and of their parts."""
    from cluster.client import close_studio, make_films, open_studio
    from cluster.local import ray_cluster

    store, seen = Store(str(folder)), {}
    began = time.perf_counter()

    def watch(states) -> None:
        jobs = [job for state in states for job in state["jobs"]]
        now = time.perf_counter() - began
        if any(job["step"] for job in jobs):
            seen.setdefault("start_up", now)
        priors = [job["state"] for job in jobs if job["kind"] == "prior"]
        if priors and set(priors) == {"done"}:
            seen.setdefault("priors_done", now)

    with ray_cluster(None, 2):
        studio = open_studio(store, "cpu")
        make_films(studio, requests(store, films, 0, steps, learn), 2, watch)
        cold = time.perf_counter() - began
        again = requests(store, films, 100, steps, learn)
        start = time.perf_counter()
        make_films(studio, again, 2, lambda states: None)
        warm = time.perf_counter() - start
        close_studio(studio)
    scenes = [job for request in again for job in request.film(request.plan).scenes]
    denoising = sum(store.notes(*job.result)["seconds"]["denoising"] for job in scenes)
    return {"cold": cold, "warm": warm, "denoising": denoising, **seen}


def learned(model: VideoModel, prior: PriorJob, store: Store) -> bytes:
    """A motion prior's weights, from the clips that the engine found."""
    from actors.worker import training_clips
    from engine.priors import learn_motion

    found = {name: store.get("clips", prior.clips, name) for name in store.record("clips", prior.clips)["files"]}
    return learn_motion(model, training_clips(found), prior.settings, prior.seed).weights


def child(job: str, folder: str) -> None:
    """What one process of the released way does: load the model, then one prior or one scene."""
    import torch

    from engine.render import render_clip
    from engine.video_model import VideoModel

    torch.set_num_threads(1)
    store, files = Store(folder), Path(folder)
    data = json.loads(job)
    if "of" in data:
        prior = PriorJob.model_validate(data)
        weights = learned(VideoModel(load_bundle(prior.model)), prior, store)
        (files / f"{prior.key}.safetensors").write_bytes(weights)
        return
    scene = SceneJob.model_validate(data["scene"])
    model = VideoModel(load_bundle(scene.model))

    def fetch(key: str) -> bytes:
        """From disk when the priors lie there; learned here and now when they do not."""
        if key in data["priors"]:
            return learned(model, PriorJob.model_validate(data["priors"][key]), store)
        return (files / f"{key}.safetensors").read_bytes()

    made = render_clip(model, scene.scene, scene.seed, scene.settings, scene.execution, scene.priors, fetch)
    (files / f"{scene.key}.mp4").write_bytes(made.clip)


def two_at_a_time(jobs: list[str], folder: Path) -> float:
    """Seconds for a fresh process per job, two at a time."""
    began, running, left = time.perf_counter(), [], list(jobs)
    while left or running:
        while left and len(running) < 2:
            command = [sys.executable, "-m", "benchmarks.throughput", "--child", left.pop(0), "--folder", str(folder)]
            running.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
        for process in list(running):
            if process.poll() is not None:
                if process.returncode:
                    raise SystemExit("a child process failed; its error stands above")
                running.remove(process)
        time.sleep(0.05)
    return time.perf_counter() - began


def bare_loop(jobs: list[str], folder: Path, processes: int) -> float:
    """Seconds for the scenes in a plain loop: `processes` with 2 / processes threads, each loaded and warmed up."""
    parts = [jobs[n::processes] for n in range(processes)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.throughput", "--loop", str(2 // processes), "--folder", str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in parts
    ]  # fmt: skip
    for worker, part in zip(workers, parts, strict=True):
        worker.stdin.write(json.dumps(part) + "\n")
        worker.stdin.flush()
    for worker in workers:
        assert worker.stdout.readline().strip() == "ready"
    began = time.perf_counter()
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.stdout.readline()
    seconds = time.perf_counter() - began
    for worker in workers:
        worker.wait()
    return seconds


def loop(threads: int, folder: str) -> None:
    """One process of the bare loop."""
    import torch

    from engine.render import render_clip
    from engine.video_model import VideoModel

    jobs = [SceneJob.model_validate(json.loads(job)) for job in json.loads(sys.stdin.readline())]
    torch.set_num_threads(threads)
    model = VideoModel(load_bundle(jobs[0].model))
    fetch = lambda key: (Path(folder) / f"{key}.safetensors").read_bytes()  # noqa: E731

    def render(job: SceneJob, steps: int | None = None):
        settings = job.settings.model_copy(update={"num_inference_steps": steps}) if steps else job.settings
        return render_clip(model, job.scene, job.seed, settings, job.execution, job.priors, fetch)

    for job in jobs:  # every LoRA is resident, every caption encoded, as in a warm worker
        if job.priors or job is jobs[0]:
            render(job, 2)
    print("ready", flush=True)
    sys.stdin.readline()
    for job in jobs:
        (Path(folder) / f"loop-{job.key}.mp4").write_bytes(render(job).clip)
    print("done", flush=True)


def predicted_2b_h100(films: int, scenes: int, using: int, priors: int) -> dict[str, Any]:
    """By the cost model: scenes of one caption, 50 steps, in films of which `using` scenes in all need one of so many
    motion priors of 500 steps. Workers are kept busy; a process needs LOAD_S to begin."""
    scene = scene_cost(COGVIDEOX_2B, 1, 50, H100).seconds
    prior = prior_cost(COGVIDEOX_2B, 500, 1, H100).seconds
    count = films * scenes
    warm, cold = count * scene, count * scene + priors * prior
    alone = count * (LOAD_S + scene)
    return {
        "gpus": H100S, "load_s": LOAD_S, "scene_s": round(scene, 1), "prior_s": round(prior),
        "scenes_per_minute": round(60 * count * H100S / warm, 1),
        "vs_process_per_scene": {
            "cold": round((alone + using * prior) / cold, 2), "warm": round((alone + using * prior) / warm, 2)
        },
        "vs_process_with_stored_priors": {
            "cold": round((alone + priors * prior) / cold, 2), "warm": round(alone / warm, 2)
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--learn", type=Learn, choices=list(Learn), default=Learn.one)
    parser.add_argument("--sample", type=int, help="scenes that the others make; all if not given")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--loop", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sample and options.learn == Learn.one:
        parser.error("--sample: with --learn one the scenes are not alike; use --learn all or none")
    if options.child:
        return child(options.child, options.folder)
    if options.loop:
        return loop(options.loop, options.folder)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with console.status("the engine, cold and warm ..."):
            ours = engine(folder, options.films, options.steps, options.learn)
        asked = requests(Store(temporary), options.films, 0, options.steps, options.learn)
        films = [request.film(request.plan) for request in asked]
        jobs = [job for film in films for job in film.scenes]
        by_key = {job.key: job.model_dump(mode="json") for film in films for job in film.priors}
        alone = [
            json.dumps({"scene": job.model_dump(mode="json"), "priors": {u.key: by_key[u.key] for u in job.priors}})
            for job in jobs
        ]
        stored = [json.dumps({"scene": job.model_dump(mode="json"), "priors": {}}) for job in jobs]
        some = min(options.sample or len(jobs), len(jobs))
        with console.status(f"one process for each of {some} scenes, two at a time ..."):
            forgetful = two_at_a_time(alone[:some], folder) * len(jobs) / some
            priors = [json.dumps(prior) for prior in by_key.values()]
            prior_s = two_at_a_time(priors[:some], folder) * max(len(priors) / some, 1)
            each = two_at_a_time(stored[:some], folder) * len(jobs) / some
        scenes = [job.model_dump_json() for job in jobs[:some]]
        with console.status("the bare loop ..."):
            bare = min(bare_loop(scenes, folder, 1), bare_loop(scenes, folder, 2)) * len(jobs) / some
    count = len(jobs)
    result = {
        "scenes": count,
        "learn": options.learn,
        "sample": some,
        "scenes_per_minute": round(60 * count / ours["warm"], 2),
        "scenes_per_minute_cold": round(60 * count / ours["cold"], 2),
        "vs_process_per_scene": {
            "cold": round(forgetful / ours["cold"], 2),
            "warm": round(forgetful / ours["warm"], 2),
        },
        "vs_process_with_stored_priors": {
            "cold": round((prior_s + each) / ours["cold"], 2),
            "warm": round(each / ours["warm"], 2),
        },
        "vs_bare_loop": round(bare / ours["warm"], 3),
        "seconds": {
            "engine": {key: round(value, 1) for key, value in ours.items()},
            "process_per_scene": round(forgetful, 1),
            "process_with_stored_priors": {"priors": round(prior_s, 1), "scenes": round(each, 1)},
            "bare_loop": round(bare, 1),
        },
        "predicted_2b_h100": predicted_2b_h100(
            options.films, len(jobs) // options.films, sum(len(job.priors) for job in jobs), len(by_key)
        ),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
