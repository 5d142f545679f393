"""`dreamrunner plan`: a story's plan as YAML, made once and kept; plans checked and compared."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cluster.films import keep_image, request_of
from engine.errors import InputError
from engine.models import Bundle
from engine.plan import Plan, dump_plan, load_plan
from engine.plan_rules import check_rules, diff_plans
from engine.story import Images, Story
from engine.textform import parse_text
from serving.export import with_images
from serving.render import PLAN_FILES, check_story, execution_plan, make_folder, open_store, render_settings


def read_plans(file: Path) -> list[Plan]:
    """A plan.yaml, one scene in the authors' text form (.txt), or a file of many such scenes (.jsonl: [name, text] a
    line). Raises InputError."""
    if file.suffix.lower() in PLAN_FILES:
        return [load_plan(file)]
    try:
        text = file.read_text(encoding="utf-8")
        told = [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else [(file.stem, text)]
        pairs = [(str(name), str(plan)) for name, plan in told]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the plan {file}: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, TypeError):
        raise InputError(f"{file}: each line must be a JSON list of a name and a plan's text") from None
    return [Plan(scenes=(parse_text(plan, _scene_id(name)).scene,)) for name, plan in pairs]


def _scene_id(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64] or "scene"


def check_files(files: Sequence[Path], console: Console) -> int:
    """Prints what breaks the rules, a line each, and how many plans are without fault; the number that are not."""
    plans = [(file, plan) for file in files for plan in read_plans(file)]
    faulty = 0
    for file, plan in plans:
        found = check_rules(plan)
        faulty += bool(found)
        for finding in found:
            print(f"{file}: {finding}")
    console.print(f"{len(plans) - faulty} of {len(plans)} plans keep all rules")
    return faulty


def diff_files(old: Path, new: Path) -> list[str]:
    """What changed from one plan file to the other. Raises InputError for one that holds many."""
    plans = [read_plans(file) for file in (old, new)]
    for file, there in zip((old, new), plans, strict=True):
        if len(there) != 1:
            raise InputError(f"--diff {file}: holds {len(there)} plans; compare files with one each")
    return diff_plans(plans[0][0], plans[1][0])


def plan_story_now(
    told: Story, images: Images, source: str, bundle: Bundle, model: str, storage: str, seed: int,
    address: str | None, folder: Path | None, console: Console,
) -> str:  # fmt: skip
    """A story's plan. Its reference images are written to `folder`, where the plan will be; with None it names them by
    sha256, for reading only.

    Raises InputError for what cannot be planned, and before any work when `folder` cannot be written.
    """
    if seed < 0:
        raise InputError(f"--seed {seed}: must be 0 or more")
    check_story(told, bundle, source)
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
