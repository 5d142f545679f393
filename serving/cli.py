"""The `dreamrunner` command."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text
from typer.exceptions import TyperException

from cluster.head import HeadLost
from cluster.patience import StorageAway
from cluster.store import DamagedResult
from engine.errors import InputError
from serving import control
from serving.library import library_app
from serving.priors import priors_app
from serving.render import Options, Order, order_films

app = typer.Typer(
    help="Stories in, films out.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
app.add_typer(library_app, name="library")
control.register(app)
app.add_typer(priors_app, name="priors")
console = Console(stderr=True)

EXIT_FAILED, EXIT_INPUT, EXIT_HEAD = 1, 2, 3

Model = Annotated[str, typer.Option(help="a built-in model, or a folder with a bundle.yaml")]
Storage = Annotated[str, typer.Option(help="where results are kept: a folder, or s3://..., gs://...")]
Workers = Annotated[int | None, typer.Option(help="scenes rendered at once; default: one per GPU, or per core")]
Seed = Annotated[int, typer.Option(help="same seed, same film")]
PlannerUrl = Annotated[
    str | None,
    typer.Option(help="an OpenAI-compatible endpoint that plans, e.g. http://host:8000/v1; its key: OPENAI_API_KEY"),
]
PlannerName = Annotated[str | None, typer.Option("--planner-model", help="the model's name at --planner-url")]
Address = Annotated[str | None, typer.Option(help="a Ray cluster to use, e.g. auto or ray://host:10001")]


@app.command()
def render(
    files: Annotated[
        list[Path], typer.Argument(help="stories (.txt) and plans (.yaml), one film each", metavar="STORY|PLAN...")
    ],
    model: Model = "miniature",
    storage: Storage = ".dreamrunner",
    workers: Workers = None,
    seed: Seed = 0,
    address: Address = None,
    out: Annotated[Path, typer.Option(help="folder that gets a folder for each film")] = Path("films"),
    steps: Annotated[int | None, typer.Option(help="denoising steps; default: the model's")] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="a quarter of the steps, into OUT/<name>.preview/; look before you render")
    ] = False,
    guidance: Annotated[float | None, typer.Option(help="guidance scale; default: the model's")] = None,
    guidance_parallel: Annotated[int, typer.Option(help="2: two workers for each scene, a branch each")] = 1,
    ulysses_parallel: Annotated[int, typer.Option(help="workers that share a scene's attention heads")] = 1,
    priors: Annotated[bool, typer.Option(help="learn motions and characters that the model does not know")] = True,
    cache: Annotated[
        float | None, typer.Option(help="reuse steps that change less than this, such as 0.3: faster, not exact")
    ] = None,
    planner_url: PlannerUrl = None,
    planner_model: PlannerName = None,
    take: Annotated[
        list[str] | None,
        typer.Option(help="SCENE=N: another take of a scene, with a folder of its own; no other scene changes"),
    ] = None,
    priority: Annotated[int, typer.Option(help="on a cluster that others use, films of higher ones come first")] = 0,
    automatic_parallel: Annotated[
        bool, typer.Option("--automatic-parallel", help="split a scene over workers that have nothing else to do")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only say what would be done and what it should cost; write resolved.yaml")
    ] = False,
) -> None:
    """Renders films: film.mp4, storyboard.html, contact.png, plan.yaml and film.vtt in OUT/<name>/.

    What was finished before is not made again: run the same command after any interruption and it goes on.
    """
    options = Options(
        model, storage, workers, seed, address, out, steps, guidance, guidance_parallel, ulysses_parallel, priors,
        cache, planner_url, planner_model, priority, automatic_parallel, tuple(take or ()), preview,
    )  # fmt: skip
    order = order_films(files, options)
    if dry_run:
        from serving.dry_run import dry_run as show

        print(*show(order, Console()), sep="\n")
        return
    failed = _make(order)
    for film in order.films:
        if film.request.finished(order.store) is None:
            continue
        from serving.export import export

        try:
            print(export(order.store, film.request, film.folder))
        except DamagedResult as damage:
            console.print(f"Stored result {damage} is damaged; it is made again.", soft_wrap=True)
            failed += _make(order)
            print(export(order.store, film.request, film.folder))
    if failed:
        console.print(f"[red]Failed:[/red] {'; '.join(failed)}", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)


def _make(order: Order) -> list[str]:
    """Has the films made that are not in the store; returns why some could not be."""
    missing = order.missing()
    if not missing:
        return []
    from cluster.client import FilmFailed, render_films
    from serving.progress import Progress

    try:
        with Progress(console, [film.folder.name for film in missing]) as progress:
            requests = [film.request for film in missing]
            render_films(order.store, requests, order.workers, order.address, progress.update, order.priority)
    except FilmFailed as error:
        return [str(error)]
    return []


@app.command()
def plan(
    files: Annotated[
        list[Path] | None, typer.Argument(help="a story, plain text; with --check or --diff plans")
    ] = None,
    topic: Annotated[str | None, typer.Option(help="instead of a story: what one should be invented about")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="where the plan goes; default: standard output")
    ] = None,
    model: Model = "miniature",
    storage: Storage = ".dreamrunner",
    seed: Seed = 0,
    address: Address = None,
    check: Annotated[
        bool, typer.Option("--check", help="say where plans (.yaml, or the authors' .txt, .jsonl) break the rules")
    ] = False,
    diff: Annotated[bool, typer.Option("--diff", help="say what changed from the first plan to the second")] = False,
    planner_url: PlannerUrl = None,
    planner_model: PlannerName = None,
) -> None:
    """Plans a story or a topic without rendering it: scenes, characters, motions and boxes, to be read and changed."""
    from engine.models import load_bundle
    from engine.planner_model import planner_at
    from engine.story import load_story, make_story
    from serving.plan import check_files, diff_files, plan_story_now

    files = files or []
    if check and diff:
        raise InputError("--check and --diff: ask for one of both")
    if check:
        raise typer.Exit(EXIT_FAILED if check_files(files, console) else 0)
    if len(files) != (2 if diff else 0 if topic else 1):
        what = "--diff compares two plans" if diff else "one story is planned at a time, or one --topic"
        raise InputError(f"{what}, but {len(files)} files are named")
    if diff:
        changes = diff_files(*files)
        print("\n".join(changes) if changes else "no difference")
        return
    if out is not None and out.is_dir():
        raise InputError(f"--out {out}: this is a folder; name the plan's file, such as {out / 'plan.yaml'}")
    asked = load_story(files[0]) if files else make_story("--topic", "", "", {}, topic or "")
    source = str(files[0]) if files else "--topic"
    bundle = planner_at(load_bundle(model), planner_url, planner_model)
    folder = out.parent if out else None
    text = plan_story_now(*asked, source, bundle, model, storage, seed, address, folder, console)
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")
        print(out)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="where to listen; 0.0.0.0: on every network of this machine")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    model: Model = "miniature",
    storage: Storage = ".dreamrunner",
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Serves films over HTTP: POST /v1/videos with a story. Runs until it is interrupted."""
    from serving.api import serve_forever

    serve_forever(host, port, model, storage, workers, address, console)


@app.command()
def status(
    storage: Storage = ".dreamrunner",
    watch: Annotated[bool, typer.Option("--watch", help="go on showing it until it is interrupted")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
) -> None:
    """Shows the films under way, their jobs and who works on them."""
    from serving.render import open_store
    from serving.status import show_status

    show_status(open_store(storage), Console(), watch, as_json)


@app.command()
def judge(
    film: Annotated[Path, typer.Argument(help="a film.mp4 of the miniature")],
    plan: Annotated[Path | None, typer.Option(help="the plan it was rendered from; default: beside the film")] = None,
    truth: Annotated[Path | None, typer.Option(help="a truth.yaml: who is where and does what, by hand")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Finds each character in the film by its sprite and says where it is and what it does, beside the plan or, with
    --truth, beside what the story's reader expects."""
    from engine.miniature import judge as judging
    from engine.miniature import truth as truths
    from engine.plan import load_plan
    from engine.video import read_video

    frames = read_video(film)[0]
    if truth is not None:
        score = truths.score_film(frames, truths.load_truth(truth))
        print(score.model_dump_json()) if as_json else Console().print(truths.table(score))
        return
    report = judging.judge_film(frames, load_plan(plan or film.parent / "plan.yaml"))
    print(json.dumps(report.model_dump(mode="json"))) if as_json else Console().print(judging.table(report))


@app.command()
def gc(
    storage: Storage = ".dreamrunner",
    forget: Annotated[list[str] | None, typer.Option(help="a film that need not be kept, by its key")] = None,
    priors: Annotated[bool, typer.Option("--priors", help="clear priors, too, that no film needs")] = False,
    library: Annotated[bool, typer.Option("--library", help="clear the motion library, too")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="clear what is listed")] = False,
) -> None:
    """Lists what a storage holds that no film needs, with sizes; --yes clears it. Films and all they need stay, what is
    unfinished of open films, priors and the motion library."""
    from serving.storage import clear_storage

    clear_storage(storage, forget or [], priors, library, yes, Console())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 0, 1 (a film failed), 2 (bad input), 3 (the cluster at --address does not
    answer) or 130 (interrupted)."""
    try:
        code = app(args=arguments, standalone_mode=False)  # of typer.Exit; a command itself gives nothing
        return code if isinstance(code, int) else 0
    except (InputError, TyperException) as error:
        what = error.format_message() if hasattr(error, "format_message") else str(error)
        console.print("[red]Error:[/red]", Text(what), soft_wrap=True)
        return EXIT_INPUT
    except (HeadLost, StorageAway) as lost:
        line = shlex.join(["dreamrunner", *(sys.argv[1:] if arguments is None else arguments)])
        again = "" if isinstance(lost, StorageAway) else "; when it is there again, run:"
        console.print("[red]Error:[/red]", Text(f"{lost}{again} {line}"), soft_wrap=True)
        return EXIT_HEAD if isinstance(lost, HeadLost) else EXIT_FAILED
    except typer.Exit as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        console.print("Stopped. What is finished is kept; run the same command to go on.")
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
