"""From results in the store to the files that people open."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.films import Film as Graph
from cluster.films import FilmRequest, PriorJob, SceneJob, input_name
from cluster.journal import Journal
from cluster.store import Store
from engine.plan import Plan, dump_plan
from engine.video import read_video, write_vtt
from serving.contact import write_contact_sheet
from serving.learned import Learned, learned_motion, learned_subject
from serving.storyboard import SceneResult, write_storyboard
from serving.timeline import chrome_trace, draw_timeline, parts_of


def export(store: Store, request: FilmRequest, folder: Path) -> Path:
    """Writes film.mp4, film.vtt, plan.yaml, storyboard.html, contact.png and the timeline from the store, with the
    reference images and the planner's answers where there are any; returns the film's path.

    Raises DamagedResult when a stored file is not what its record says.
    """
    graph = request.finished(store)
    assert graph, "the film is not finished"
    folder.mkdir(parents=True, exist_ok=True)
    results = [_scene_result(store, job) for job in graph.scenes]
    frames = [result.frames for result in results if result.frames is not None]
    path = folder / "film.mp4"
    path.write_bytes(store.get("film", graph.key, "film.mp4"))
    fps = float(read_video(results[0].clip)[1])
    lengths = [len(f) / fps for f in frames]
    told = [scene.narration for scene in graph.plan.scenes]
    (folder / "film.vtt").write_text(write_vtt(told, lengths), encoding="utf-8")
    plan = with_images(store, graph.plan, folder)
    (folder / "plan.yaml").write_text(dump_plan(plan), encoding="utf-8")
    planned = None
    if request.plan_job:
        (folder / "planner-answers.json").write_bytes(store.get(*request.plan_job.result, "answers.json"))
        planned = store.notes(*request.plan_job.result).get("planner")
    notes = store.notes(*graph.scenes[0].result)
    about = {"model": notes["model"], "planner": planned, "seed": request.seed, "key": graph.key}
    write_storyboard(folder / "storyboard.html", graph.plan, results, about, _learned(store, graph))
    write_contact_sheet(folder / "contact.png", graph.plan, frames)
    if (done := Journal(store).done_film(request.key)) and done.spans:
        parts = parts_of([(graph.plan.title, done.spans)])
        (folder / "timeline.json").write_text(chrome_trace(parts), encoding="utf-8")
        draw_timeline(folder / "timeline.png", parts, f"{graph.plan.title}: how it was made")
    return path


def _scene_result(store: Store, job: SceneJob) -> SceneResult:
    clip, notes = store.get(*job.result, "clip.mp4"), store.notes(*job.result)
    seconds = sum(notes["seconds"].values()) - notes["seconds"]["loading"]
    shown = {k: notes[k] for k in ("num_inference_steps", "guidance_scale", "device", "dtype")}
    if job.workers > 1:
        shown["workers"] = job.workers
    if job.priors:
        shown["priors"] = ", ".join(use.name for use in job.priors)
    return SceneResult(job.scene, clip, read_video(clip)[0], job.seed, shown, round(seconds, 1), job.key)


def _learned(store: Store, graph: Graph) -> list[Learned]:
    """What the film's priors learned from, and how."""

    def one(job: PriorJob) -> Learned:
        card = json.loads(store.get(*job.result, "card.json"))
        if job.of == "motion":
            files = {name: store.get("clips", job.clips, name) for name in store.record("clips", job.clips)["files"]}  # type: ignore[index]
            return learned_motion(job.name, card, files, job.key)
        images = [store.read(input_name(sha)) or b"" for sha in job.images]
        return learned_subject(job.name, job.phrase, card, images, job.key)

    return [one(job) for job in graph.priors]


def with_images(store: Store, plan: Plan, folder: Path) -> Plan:
    """Writes the reference images beside the plan, which names them by file; so the folder can be rendered again."""
    characters = {}
    for name, character in plan.characters.items():
        files = []
        for number, sha in enumerate(character.images, 1):
            data = store.read(input_name(sha)) or b""
            ending = "png" if data.startswith(b"\x89PNG") else "webp" if data[8:12] == b"WEBP" else "jpg"
            files.append(f"{name.replace(' ', '-')}-{number}.{ending}")
            (folder / files[-1]).write_bytes(data)
        characters[name] = character.model_copy(update={"images": tuple(files)})
    return plan.model_copy(update={"characters": characters})
