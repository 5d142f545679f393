"""`dreamrunner plan`: a story's plan as YAML, made once and kept."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cluster.films import keep_image, request_of
from engine.errors import InputError
from engine.models import load_bundle
from engine.plan import dump_plan
from engine.story import load_story
from serving.export import with_images
from serving.render import check_story, execution_plan, make_folder, open_store, render_settings


def plan_file(
    story: Path, model: str, storage: str, seed: int, address: str | None, folder: Path | None, console: Console
) -> str:
    """A story file's plan. Its reference images are written to `folder`, where the plan will be; with None it names
    them by sha256, for reading only.

    Raises InputError for what cannot be planned, and before any work when `folder` cannot be written.
    """
    bundle = load_bundle(model)
    if seed < 0:
        raise InputError(f"--seed {seed}: must be 0 or more")
    told, images = load_story(story)
    check_story(told, bundle, str(story))
    store = open_store(storage)
    if folder is not None:
        make_folder(folder)
    for image in images.values():
        keep_image(store, image)
    request = request_of(
        bundle, model, store, story=told, seed=seed, settings=render_settings(bundle, None, None),
        execution=execution_plan(bundle, False, 1, 1, 1),
    )  # fmt: skip
    if request.stored_plan(store) is None:
        from cluster.client import plan_story

        assert request.plan_job
        with console.status("planning the story ..."):
            plan_story(store, request.plan_job, address)
    plan = request.stored_plan(store)
    assert plan
    return dump_plan(with_images(store, plan, folder) if folder else plan)
