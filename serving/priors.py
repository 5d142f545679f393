"""`dreamrunner priors`: what was learned and is kept, to be listed, looked at and taken away."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.lease import Lease
from cluster.store import DamagedResult, Store
from engine.errors import InputError

priors_app = typer.Typer(help="Learned motions and subjects, kept for every film.", no_args_is_help=True)
console = Console(stderr=True)

SHORT = 12  # letters of a key that are shown
StorageOption = Annotated[str, typer.Option(help="where results are kept: a folder, or s3://..., gs://...")]
PriorArgument = Annotated[str, typer.Argument(help="its name, or the first letters of its key", metavar="PRIOR")]


@dataclass(frozen=True)
class Kept:
    """A prior in the store: its key, how it came about (engine/priors.py), and the size of its LoRA file."""

    key: str
    card: Mapping[str, Any]
    size: int

    @property
    def shown_from(self) -> str:
        """What it was learned from, in words."""
        if self.card["kind"] == "subject":
            return f"{_count(self.card['images'], 'picture')} of {self.card['phrase']}"
        return _count(len(self.card["clips"]), "clip")


@priors_app.command("list")
def list_priors(storage: StorageOption = ".dreamrunner") -> None:
    """Lists what was learned."""
    found = kept_priors(Store(storage))
    if not found:
        console.print(f"No prior in {storage} yet: a film that needs one learns it.", soft_wrap=True, markup=False)
        return
    table = Table("prior", "kind", "base", "learned from", "kept step", "loss", "seconds", "MB", "key")
    for prior in found:
        card = prior.card
        table.add_row(
            escape(card["name"]), card["kind"], card["base"], escape(prior.shown_from),
            f"{card['kept_step']} of {card['steps']}",
            f"{card['loss_before']:.3f} -> {card['loss_after']:.3f}", f"{card['seconds']:.0f}",
            f"{prior.size / 1e6:.1f}", prior.key[:SHORT],
        )  # fmt: skip
    Console().print(table)


@priors_app.command()
def show(
    prior: PriorArgument,
    storage: StorageOption = ".dreamrunner",
    out: Annotated[Path | None, typer.Option(help="the loss curve, PNG or SVG; default: NAME.png")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the card as JSON, and draw nothing")] = False,
) -> None:
    """Shows how a prior came about, and draws its loss curve."""
    found = find(Store(storage), prior)
    card = found.card
    if as_json:
        print(json.dumps({"key": found.key, **card}))
        return
    table = Table(show_header=False)
    facts = {
        "prior": card["name"], "kind": card["kind"], "captions say": card.get("phrase"), "key": found.key,
        "base": f"{card['base']} {card['fingerprint'][:SHORT]}", "license": card["license"],
        "learned from": found.shown_from, "held out": card["held_out"],
        "steps": f"{card['steps']}, of which {card['kept_step']} are kept",
        "loss on fixed noise": f"{card['loss_before']:.4f} before, {card['loss_after']:.4f} kept",
        "took": f"{card['seconds']:.0f} s", "file": f"{found.size / 1e6:.1f} MB",
        "settings": ", ".join(f"{name} {value}" for name, value in card["settings"].items()),
    }  # fmt: skip
    for name, value in facts.items():
        if value is not None:
            table.add_row(name, escape(str(value)))
    for clip in card.get("clips", ()):
        table.add_row(escape(f"clip {clip['name'][:SHORT]}"), escape(clip["caption"]))
    Console().print(table)
    out = out or Path(f"{card['name'].replace(' ', '-')}.png")
    draw_curve(card, out)
    print(out)


@priors_app.command()
def remove(
    priors: Annotated[list[str], typer.Argument(help="names, or the first letters of keys", metavar="PRIOR...")],
    storage: StorageOption = ".dreamrunner",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """Takes priors away. Scenes that were rendered with them stay; the next film that needs one learns it again."""
    store = Store(storage)
    found = list({prior.key: prior for prior in (find(store, name) for name in priors)}.values())
    names = ", ".join(f"{prior.card['name']} ({prior.key[:SHORT]})" for prior in found)
    spent = sum(prior.card["seconds"] for prior in found)
    if not yes and not typer.confirm(f"Remove {names}? Learning took {spent:.0f} s"):
        raise typer.Exit(1)
    lease = Lease(store, f"priors remove {','.join(prior.key for prior in found)}")
    lease.acquire()  # a studio that is at work counts on what is there
    try:
        for prior in found:
            store.remove("prior", prior.key)
    finally:
        lease.release()
    console.print(f"Removed {names}.", soft_wrap=True, markup=False)


def kept_priors(store: Store) -> list[Kept]:
    """By kind and name. What is damaged is left out: the store no longer counts it."""
    found = []
    for key in store.list("results/prior"):
        record = store.record("prior", key)
        if record is None:
            continue
        try:
            card = json.loads(store.get("prior", key, "card.json"))
        except DamagedResult:
            console.print(f"Prior {key[:SHORT]} is damaged; it is made again when a film needs it.", soft_wrap=True)
            continue
        if "kept_step" in card:  # those of earlier revisions no film asks for any more
            found.append(Kept(key, card, record["files"]["prior.safetensors"]["bytes"]))
    return sorted(found, key=lambda prior: (prior.card["kind"], prior.card["name"], prior.key))


def find(store: Store, name: str) -> Kept:
    """The one prior of this name, or whose key begins so. Raises InputError."""
    there = kept_priors(store)
    found = [prior for prior in there if prior.card["name"] == name or (len(name) >= 4 and prior.key.startswith(name))]
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(dict.fromkeys(prior.card["name"] for prior in there)) or "none"
        raise InputError(f"PRIOR {name!r}: there is none in {store.url}; there are: {known}")
    keys = ", ".join(prior.key[:SHORT] for prior in found)
    raise InputError(f"PRIOR {name!r}: {len(found)} priors have this name; say which by its key: {keys}")


def draw_curve(card: Mapping[str, Any], file: Path) -> None:
    """The loss at each step, and on fixed noise, with the step that was kept."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    steps = range(1, len(card["curve"]) + 1)
    axes.plot(steps, card["curve"], color="#c8c8c8", linewidth=0.8, label="each step, noise anew")
    looked = f"held-out clip {card['held_out'][:SHORT]}" if card["held_out"] else "what it learned from"
    axes.plot(*zip(*card["checks"], strict=True), "o-", color="#30638e", markersize=3, label=f"fixed noise, {looked}")
    axes.plot([card["kept_step"]], [card["loss_after"]], "o", color="#d1495b", label=f"kept: {card['kept_step']}")
    axes.set(xlabel="step", ylabel="loss", title=card["name"], ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.2)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
