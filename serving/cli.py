"""The `dreamrunner` command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text
from typer.exceptions import TyperException

from cluster.store import DamagedResult
from engine.errors import InputError
from serving.render import Order, export, order_films

app = typer.Typer(
    help="Stories in, films out.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
console = Console(stderr=True)

EXIT_FAILED, EXIT_INPUT = 1, 2


@app.command()
def render(
    plans: Annotated[list[Path], typer.Argument(help="plan.yaml files, one film each", metavar="PLAN...")],
    model: Annotated[str, typer.Option(help="a built-in model, or a folder with a bundle.yaml")] = "miniature",
    storage: Annotated[
        str, typer.Option(help="where results are kept: a folder, or s3://..., gs://...")
    ] = ".dreamrunner",
    workers: Annotated[
        int | None, typer.Option(help="scenes rendered at once; default: one per GPU, or per core")
    ] = None,
    seed: Annotated[int, typer.Option(help="same seed, same film")] = 0,
    address: Annotated[str | None, typer.Option(help="a Ray cluster to use, e.g. auto or ray://host:10001")] = None,
    out: Annotated[Path, typer.Option(help="folder that gets a folder for each film")] = Path("films"),
    steps: Annotated[int | None, typer.Option(help="denoising steps; default: the model's")] = None,
    guidance: Annotated[float | None, typer.Option(help="guidance scale; default: the model's")] = None,
) -> None:
    """Renders films from plans: film.mp4, storyboard.html, contact.png and plan.yaml in OUT/<name>/.

    What was finished before is not made again: run the same command after any interruption and it goes on.
    """
    order = order_films(plans, model, storage, workers, seed, address, out, steps, guidance)
    failed = _make(order, address)
    for film in order.films:
        if film.request.finished(order.store):
            try:
                print(export(order.store, film))
            except DamagedResult as damage:
                console.print(f"Stored result {damage} is damaged; it is made again.", soft_wrap=True)
                failed += _make(order, address)
                print(export(order.store, film))
    if failed:
        console.print(f"[red]Failed:[/red] {'; '.join(failed)}", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)


def _make(order: Order, address: str | None) -> list[str]:
    """Has the films made that are not in the store; returns why some could not be."""
    missing = order.missing()
    if not missing:
        return []
    from cluster.client import FilmFailed, render_films
    from serving.progress import Progress

    try:
        with Progress(console, missing) as progress:
            render_films(order.store, [f.request for f in missing], order.workers, address, progress.update)
    except FilmFailed as error:
        return [str(error)]
    return []


@app.command()
def judge(
    film: Annotated[Path, typer.Argument(help="a film.mp4 of the miniature")],
    plan: Annotated[Path, typer.Option(help="the plan it was rendered from")],
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Finds each character in the film by its sprite and says where it is, beside where the plan wants it."""
    from engine.miniature.judge import judge_film, table
    from engine.plan import load_plan
    from engine.video import read_video

    report = judge_film(read_video(film)[0], load_plan(plan))
    if as_json:
        print(json.dumps(report.model_dump(mode="json")))
    else:
        Console().print(table(report))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 0, 1 (a film failed), 2 (bad input) or 130 (interrupted)."""
    try:
        app(args=arguments, standalone_mode=False)
        return 0
    except (InputError, TyperException) as error:
        what = error.format_message() if hasattr(error, "format_message") else str(error)
        console.print("[red]Error:[/red]", Text(what), soft_wrap=True)
        return EXIT_INPUT
    except typer.Exit as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        console.print("Stopped. Finished scenes are kept; run the same command to go on.")
        return 130
