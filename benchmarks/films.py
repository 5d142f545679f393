"""Stories whose truth a person wrote down, rendered together and held against it.

    python -m benchmarks.films [STORY.txt ...] [--storage FOLDER]

Without names: all of examples/stories/ and the README's example. Each NAME.txt has a NAME.truth.yaml beside it: who is
where and does what, from the story alone. So the planner is measured together with everything after it. The films come
into films/NAME/ as `dreamrunner render` makes them, their contact sheets also into docs/stories/NAME.webp, with a table
in docs/stories.md. The last line is one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

from cluster.client import render_films
from engine.errors import InputError
from engine.miniature.truth import Truth, TruthScore, load_truth, score_film
from engine.plan import Plan, load_plan
from engine.video import read_video
from serving.export import export
from serving.progress import Progress
from serving.render import Options, order_films

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
WIDTH = 1200  # pixels of a contact sheet in docs/
console = Console(stderr=True)


def told_films() -> list[Path]:
    """The stories that have a truth."""
    examples = ROOT / "examples"
    return [
        truth.with_name(truth.name.replace(".truth.yaml", ".txt")) for truth in sorted(examples.rglob("*.truth.yaml"))
    ]


def figures(score: TruthScore) -> dict[str, float | None]:
    shares = {"score": score.score, "stages": score.stages, "found": score.found, "motions": score.motions}
    return {name: None if share is None else round(share, 3) for name, share in shares.items()}


def planned(plan: Plan, truth: Truth) -> float:
    """The share of the expected motions that the plan has, of the right character in the right scene."""
    told = [(n, name, actor.motion) for n, scene in enumerate(truth.scenes) for name, actor in scene.characters.items()]
    there = {(n, region.entity, region.motion) for n, scene in enumerate(plan.scenes) for region in scene.regions}
    return sum(act in there for act in told) / len(told) if told else 1.0


def missed(score: TruthScore) -> Iterator[str]:
    """What does not hold, in words."""
    for n, scene in enumerate(score.scenes, 1):
        if scene.stage != scene.stage_seen:
            yield f"scene {n}: the stage is {scene.stage_seen or 'unclear'}, not {scene.stage}"
        for actor in scene.actors:
            if not actor.present:
                yield f"scene {n}: no {actor.character}"
            if actor.motion != actor.motion_seen:
                yield f"scene {n}: {actor.character} {actor.motion_seen or 'does nothing clear'}, not {actor.motion}"
            if actor.place_right is False:
                yield f"scene {n}: {actor.character} stands elsewhere"
        yield from (f"scene {n}: {who} is there and should not be" for who in scene.strangers)


def page(scores: dict[str, TruthScore], plans: dict[str, float], stories: dict[str, str]) -> str:
    """docs/stories.md."""
    lines = [
        "# Stories, and the films that came of them",
        "",
        "Rendered together by `python -m benchmarks.films`, each held against what a reader of the story expects,",
        "written down by hand before: the stage of each scene, who is there, and what they do. `motions planned` is",
        "the plan alone. One seed, one take; boxes are the planner's. How the planner was changed with some of these",
        "stories in view: [planner.md](planner.md).",
        "",
        "| story | motions planned | score | stages | characters found | motions |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name, score in scores.items():
        cells = ["-" if share is None else f"{share:.2f}" for share in figures(score).values()]
        lines.append(f"| [{name}](#{name}) | {plans[name]:.2f} | {' | '.join(cells)} |")
    for name, score in scores.items():
        lines += ["", f"## {name}", "", *(f"> {line}".strip() for line in stories[name].splitlines()), ""]
        lines += [
            f"What the judge misses: {'; '.join(missed(score)) or 'nothing'}.",
            "",
            f"![{name}](stories/{name}.webp)",
        ]
    return "\n".join(lines) + "\n"


def main(
    files: Annotated[list[Path] | None, typer.Argument(help="stories with a truth beside them")] = None,
    storage: Annotated[str, typer.Option(help="where results are kept")] = ".dreamrunner",
    out: Annotated[Path, typer.Option(help="where the films come")] = Path("films"),
    workers: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Renders, judges, draws."""
    files = files or told_films()
    try:
        truths = [load_truth(file.with_suffix(".truth.yaml")) for file in files]
        order = order_films(files, Options(storage=storage, out=out, workers=workers))
    except InputError as error:
        raise SystemExit(str(error)) from None
    if missing := order.missing():
        with Progress(console, [film.folder.name for film in missing]) as progress:
            render_films(order.store, [film.request for film in missing], workers, None, progress.update)
    (DOCS / "stories").mkdir(parents=True, exist_ok=True)
    frames = []
    for film in order.films:
        frames.append(read_video(export(order.store, film.request, film.folder))[0])
        sheet = Image.open(film.folder / "contact.png").convert("RGB")
        sheet.thumbnail((WIDTH, sheet.height))
        sheet.save(DOCS / "stories" / f"{film.folder.name}.webp", quality=80, method=6)
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        judged = track(pool.map(score_film, frames, truths), "judging", len(frames), console=console)
        scores = {film.folder.name: score for film, score in zip(order.films, judged, strict=True)}
    stories = {film.folder.name: film.request.story.text.strip() for film in order.films if film.request.story}
    plans = {
        film.folder.name: planned(load_plan(film.folder / "plan.yaml"), truth)
        for film, truth in zip(order.films, truths, strict=True)
    }
    (DOCS / "stories.md").write_text(page(scores, plans, stories))
    every = TruthScore(scenes=[scene for score in scores.values() for scene in score.scenes], scenes_in_film=0)
    films = {name: {"planned": round(plans[name], 3), **figures(score)} for name, score in scores.items()}
    print(json.dumps({"films": films, "all": figures(every)}))


if __name__ == "__main__":
    typer.run(main)
