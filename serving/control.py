"""`dreamrunner cancel`, `pause`, `resume` and `prioritize`: what can be done to a film that is under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from cluster.journal import Asked, Journal
from cluster.lease import holder
from cluster.store import Store
from engine.errors import InputError
from serving.render import open_store

Film = Annotated[str, typer.Argument(help="the beginning of its key, or its title, as `dreamrunner status` shows them")]
Storage = Annotated[str, typer.Option(help="where results are kept: a folder, or s3://..., gs://...")]
Address = Annotated[str, typer.Option(help="the Ray cluster that its studio runs on; auto: this machine's")]
console = Console(stderr=True)


def register(app: typer.Typer) -> None:
    """Makes them commands of an app."""
    for command in (cancel, pause, resume, prioritize):
        app.command()(command)


def cancel(film: Film, storage: Storage = ".dreamrunner", address: Address = "auto") -> None:
    """Ends a film that is under way. What is finished of it stays: asked for again, it goes on from there."""
    change(film, storage, address, "cancel", (), lambda journal, asked: journal.forget(asked.request.key))
    console.print("Cancelled. What is finished is kept; run its command again to go on.")


def pause(film: Film, storage: Storage = ".dreamrunner", address: Address = "auto") -> None:
    """Starts no more jobs of a film; those under way are finished."""
    change(film, storage, address, "pause", (True,), _again(paused=True))
    console.print("Paused; `dreamrunner resume` goes on.")


def resume(film: Film, storage: Storage = ".dreamrunner", address: Address = "auto") -> None:
    """Goes on with a paused film."""
    change(film, storage, address, "pause", (False,), _again(paused=False))
    console.print("Resumed.")


def prioritize(
    film: Film,
    priority: Annotated[int, typer.Argument(help="films of higher numbers come first; 0 is usual")],
    storage: Storage = ".dreamrunner",
    address: Address = "auto",
) -> None:
    """Gives a film under way another priority. (For a negative one: `-- FILM -1`.)"""
    change(film, storage, address, "prioritize", (priority,), _again(priority=priority))
    console.print(f"Its priority is {priority}.")


def _again(**about: Any) -> Callable[[Journal, Asked], None]:
    return lambda journal, asked: journal.ask(asked.model_copy(update=about))


def change(
    film: str,
    storage: str,
    address: str,
    method: str,
    arguments: tuple[Any, ...],
    in_journal: Callable[[Journal, Asked], None],
) -> None:
    """Asks the studio that has the storage; when none has, writes into the journal what its next one will find. Raises
    InputError for a film that is not under way."""
    store = open_store(storage)
    asked = find(store, film)
    if holder(store) is None:
        in_journal(Journal(store), asked)
        return
    from cluster.client import ask_studio
    from cluster.local import ray_cluster

    with ray_cluster(address, 0):
        ask_studio(store, method, asked.request.key, *arguments)


def find(store: Store, film: str) -> Asked:
    """The film under way of this key (or its beginning) or title. Raises InputError, also when there are several."""
    opened = Journal(store).open_films()
    found = [asked for asked in opened if film and (asked.request.key.startswith(film) or _title(asked) == film)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{asked.request.key[:12]} ({_title(asked) or 'no title'})" for asked in found or opened)
    if found:
        raise InputError(f"{film}: {len(found)} films under way are called so: {known}; give more of the key")
    raise InputError(
        f"{film}: no such film is under way in {store.url}; there {f'are: {known}' if known else 'is none'}"
    )


def _title(asked: Asked) -> str:
    about = asked.request.story or asked.request.plan
    return about.title if about else ""
