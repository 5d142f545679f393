"""`dreamrunner render`: from arguments to film requests, checked before any work is done."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from cluster.films import FilmRequest, keep_image, request_of
from cluster.store import Store
from engine.errors import InputError
from engine.models import Bundle, load_bundle
from engine.plan import Plan, load_plan
from engine.planner_model import planner_at
from engine.planner_prompts import check_cast
from engine.settings import ExecutionPlan, RenderSettings, check_cache, check_degrees
from engine.story import Images, Story, check_image, load_story

MAX_WORKERS = 10_000
PLAN_FILES = (".yaml", ".yml")
PREVIEW = 4  # a preview has so many times fewer steps, and so many at least


@dataclass(frozen=True)
class Options:
    """What the command line says besides the files."""

    model: str = "miniature"
    storage: str = ".dreamrunner"
    workers: int | None = None
    seed: int = 0
    address: str | None = None
    out: Path = Path("films")
    steps: int | None = None
    guidance: float | None = None
    guidance_degree: int = 1
    ulysses_degree: int = 1
    priors: bool = True
    cache: float | None = None
    planner_url: str | None = None
    planner_model: str | None = None
    priority: int = 0
    automatic: bool = False
    takes: tuple[str, ...] = ()
    preview: bool = False


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
    address: str | None = field(default=None)
    priority: int = 0

    def missing(self) -> list[Film]:
        """The films that are not whole in the store."""
        return [film for film in self.films if film.request.finished(self.store) is None]


def order_films(files: Sequence[Path], options: Options) -> Order:
    """Checks everything a user can get wrong before any work is done; raises InputError."""
    bundle = planner_at(load_bundle(options.model), options.planner_url, options.planner_model)
    check_workers(options.workers)
    if options.seed < 0:
        raise InputError(f"--seed {options.seed}: must be 0 or more")
    settings = render_settings(bundle, _steps(bundle, options), options.guidance, options.cache)
    gpus = _gpus(options.address)
    workers = options.workers or gpus or os.cpu_count() or 1
    if options.automatic and (options.guidance_degree, options.ulysses_degree) != (1, 1):
        raise InputError(
            "--automatic-parallel chooses what --guidance-parallel and --ulysses-parallel give; leave these"
        )
    execution = execution_plan(bundle, gpus > 0, workers, options.guidance_degree, options.ulysses_degree)
    check_cache(settings, execution)
    takes = parse_takes(options.takes)
    asked = [_read(file, bundle) for file in files]
    store = open_store(options.storage)
    films = []
    for file, (what, images) in zip(files, asked, strict=True):
        for image in images.values():
            keep_image(store, image)
        request = request_of(
            bundle, options.model, store, seed=options.seed, settings=settings, execution=execution,
            learn=options.priors, automatic=options.automatic, takes=takes, **what,
        )  # fmt: skip
        if request.plan:
            request.film(request.plan)  # raises for takes of scenes that it does not have
        parts = [*(f"{scene}-{take}" for scene, take in takes.items()), *(["preview"] if options.preview else [])]
        folder = ".".join([film_name(file), *parts])
        films.append(Film(request, options.out / folder))
    _check_folders(films, files)
    return Order(store, bundle, tuple(films), workers, options.address, options.priority)


def _steps(bundle: Bundle, options: Options) -> int | None:
    """Denoising steps that the options ask for. Raises InputError."""
    if not options.preview:
        return options.steps
    if options.steps is not None:
        raise InputError(f"--preview chooses the steps itself; leave --steps {options.steps} or --preview away")
    return max(bundle.num_inference_steps // PREVIEW, PREVIEW)


def _read(file: Path, bundle: Bundle) -> tuple[dict[str, Story | Plan], Images]:
    """A story or a plan, by the file's ending, with its reference images."""
    if file.suffix.lower() not in PLAN_FILES:
        story, images = load_story(file)
        check_story(story, bundle, str(file))
        return {"story": story}, images
    plan, images, characters = load_plan(file), {}, {}
    for name, character in plan.characters.items():
        keys: list[str] = []
        for image in character.images:
            try:
                data = (file.parent / image).read_bytes()
            except OSError as error:
                raise InputError(
                    f"{file}: characters.{name}.images: cannot read {file.parent / image} ({error.strerror})"
                ) from None
            check_image(f"{file}: characters.{name}.images: {image}", data)
            images |= (kept := {_sha256(data): data})
            keys += kept
        characters[name] = character.model_copy(update={"images": tuple(keys)})
    plan = plan.model_copy(update={"characters": characters})
    bundle.check_plan(plan, str(file))
    return {"plan": plan}, images


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_story(story: Story, bundle: Bundle, source: str) -> None:
    """Raises InputError when nobody can plan the story for this model."""
    if bundle.planner is None:
        raise InputError(
            f"{source}: the model {bundle.name} names no planner (`planner:` in its bundle.yaml); give a plan.yaml"
        )
    for name in story.characters:
        if bundle.words and name in bundle.words.characters:
            raise InputError(f"{source}: characters.{name}: {bundle.name} knows {name} by itself; leave the image out")
    if not story.topic:
        check_cast(story.text, list(story.characters), bundle, source)


def check_workers(workers: int | None) -> None:
    if workers is not None and not 1 <= workers <= MAX_WORKERS:
        raise InputError(f"--workers {workers}: must be 1..{MAX_WORKERS}")


def parse_takes(takes: Sequence[str]) -> dict[str, int]:
    """SCENE=N, ... -> scene -> take. Raises InputError."""
    parsed = {}
    for take in takes:
        scene, _, number = take.rpartition("=")
        if not scene or not number.isdecimal() or int(number) < 1:
            raise InputError(f"--take {take}: say SCENE=N, such as one=2 for the second take of the scene one")
        parsed[scene] = int(number)
    return parsed


def execution_plan(bundle: Bundle, cuda: bool, workers: int, guidance: int, ulysses: int) -> ExecutionPlan:
    """The arithmetic of a film, fixed before its first step. Raises InputError for degrees that cannot be."""
    if bundle.priors.workers > workers:
        raise InputError(
            f"priors.workers: {bundle.name} has {bundle.priors.workers} workers learn a prior together, but there are "
            f"{workers}; lower it in bundle.yaml or add workers"
        )
    try:
        execution = ExecutionPlan(
            device="cuda" if cuda else "cpu", dtype=bundle.dtype if cuda else "float32", threads=1,
            guidance_degree=guidance, ulysses_degree=ulysses,
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_degree", "-parallel")
        raise InputError(f"{option} {first['input']}: {first['msg'].lower()}") from None
    shape = bundle.shape
    check_degrees(execution, shape.heads if shape else ulysses, shape.visual if shape else 0, workers)
    return execution


def render_settings(
    bundle: Bundle, steps: int | None, guidance: float | None, cache: float | None = None
) -> RenderSettings:
    try:
        return RenderSettings(
            num_inference_steps=bundle.num_inference_steps if steps is None else steps,
            guidance_scale=bundle.guidance_scale if guidance is None else guidance,
            cache=cache,
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = {"num_inference_steps": "--steps", "guidance_scale": "--guidance"}.get(str(first["loc"][0]), "--cache")
        raise InputError(f"{option} {first['input']}: {first['msg'].lower()}") from None


def open_store(url: str) -> Store:
    """The storage. Raises InputError when it is unknown or cannot be written."""
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


def _check_folders(films: Sequence[Film], files: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for film, file in zip(films, files, strict=True):
        if film.folder in seen:
            raise InputError(f"{seen[film.folder]} and {file} would both be written to {film.folder}; rename one")
        seen[film.folder] = file
        make_folder(film.folder)


def make_folder(folder: Path) -> None:
    """Raises InputError when there can be none, or nothing can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(f"--out {folder}: cannot write there ({error.strerror}); name another folder") from None


def film_name(file: Path) -> str:
    """The film's folder: the file's name without its ending; plan.yaml and story.txt are named by their folder."""
    name = re.sub(r"(\.plan)?\.(ya?ml|txt|md)$", "", file.name)
    return file.absolute().parent.name if name in ("plan", "story") else name
