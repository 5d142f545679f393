"""`dreamrunner render`: from arguments to film requests, and from results to the files people open."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cluster.films import FilmRequest
from cluster.store import Store
from engine.errors import InputError
from engine.models import Bundle, load_bundle
from engine.plan import dump_plan, load_plan
from engine.settings import ExecutionPlan, RenderSettings

MAX_WORKERS = 10_000


@dataclass(frozen=True)
class Film:
    """One film of an order and the folder that gets it."""

    request: FilmRequest
    folder: Path


@dataclass(frozen=True)
class Order:
    """All that one command asks for, checked."""

    store: Store
    bundle: Bundle
    films: tuple[Film, ...]
    workers: int

    def missing(self) -> list[Film]:
        """The films that are not whole in the store."""
        return [film for film in self.films if not film.request.finished(self.store)]


def order_films(
    plans: Sequence[Path], model: str, storage: str, workers: int | None, seed: int, address: str | None,
    out: Path, steps: int | None, guidance: float | None,
) -> Order:  # fmt: skip
    """Checks everything a user can get wrong before any work is done; raises InputError."""
    bundle = load_bundle(model)
    if workers is not None and not 1 <= workers <= MAX_WORKERS:
        raise InputError(f"--workers {workers}: must be 1..{MAX_WORKERS}")
    if seed < 0:
        raise InputError(f"--seed {seed}: must be 0 or more")
    settings = _settings(bundle, steps, guidance)
    gpus = _gpus(address)
    execution = ExecutionPlan(device="cuda" if gpus else "cpu", dtype=bundle.dtype if gpus else "float32", threads=1)
    films = []
    for file in plans:
        plan = load_plan(file)
        bundle.check_plan(plan, str(file))
        request = FilmRequest(
            plan=plan, seed=seed, settings=settings, execution=execution, model=model, fingerprint=bundle.fingerprint
        )
        films.append(Film(request, out / film_name(file)))
    store = _store(storage)
    _check_folders(films, plans)
    return Order(store, bundle, tuple(films), workers or gpus or os.cpu_count() or 1)


def _settings(bundle: Bundle, steps: int | None, guidance: float | None) -> RenderSettings:
    try:
        return RenderSettings(
            num_inference_steps=bundle.num_inference_steps if steps is None else steps,
            guidance_scale=bundle.guidance_scale if guidance is None else guidance,
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = {"num_inference_steps": "--steps", "guidance_scale": "--guidance"}[str(first["loc"][0])]
        raise InputError(f"{option} {first['input']}: {first['msg'].lower()}") from None


def _store(url: str) -> Store:
    try:
        store = Store(url)
    except (ValueError, ImportError) as error:  # a protocol that fsspec does not know, or has no package for
        raise InputError(f"--storage {url}: {str(error).splitlines()[0]}") from None
    store.check_writable()
    return store


def _gpus(address: str | None) -> int:
    """GPUs of the cluster, or of this machine; Ray is asked, and imported, only when there is an address."""
    if address is None:
        return len(list(Path("/dev").glob("nvidia[0-9]*")))
    from cluster.local import gpus, ray_cluster

    with ray_cluster(address, 0):
        return gpus()


def _check_folders(films: Sequence[Film], plans: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for film, file in zip(films, plans, strict=True):
        if film.folder in seen:
            raise InputError(f"{seen[film.folder]} and {file} would both be written to {film.folder}; rename one")
        seen[film.folder] = file
        try:
            film.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--out {film.folder}: cannot write there ({error.strerror}); name another folder"
            ) from None


def film_name(file: Path) -> str:
    """The film's folder: the plan's file name without .plan.yaml; plan.yaml is named by its folder."""
    name = re.sub(r"(\.plan)?\.ya?ml$", "", file.name)
    return file.absolute().parent.name if name == "plan" else name


def export(store: Store, film: Film) -> Path:
    """Writes film.mp4, plan.yaml, storyboard.html and contact.png from the store; returns the film's path."""
    from engine.video import read_video
    from serving.contact import write_contact_sheet
    from serving.storyboard import SceneResult, write_storyboard

    request, folder = film.request, film.folder
    results, all_frames = [], []
    for job in request.jobs:
        clip, notes = store.get("scene", job.key, "clip.mp4"), store.notes("scene", job.key)
        frames, _ = read_video(clip)
        seconds = sum(notes["seconds"].values()) - notes["seconds"]["loading"]
        shown = {k: notes[k] for k in ("num_inference_steps", "guidance_scale", "device", "dtype")}
        results.append(SceneResult(job.scene, clip, frames, job.seed, shown, round(seconds, 1), job.key))
        all_frames.append(frames)
    path = folder / "film.mp4"
    path.write_bytes(store.get("film", request.key, "film.mp4"))
    (folder / "plan.yaml").write_text(dump_plan(request.plan), encoding="utf-8")
    about = {"model": notes["model"], "seed": request.seed, "key": request.key}
    write_storyboard(folder / "storyboard.html", request.plan, results, about)
    write_contact_sheet(folder / "contact.png", request.plan, all_frames)
    return path
