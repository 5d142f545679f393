"""`dreamrunner gc`: what no film needs, listed with its size, and cleared when asked."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from cluster.gc import Survey, clear, survey
from serving.render import open_store


def clear_storage(url: str, forget: list[str], priors: bool, library: bool, yes: bool, console: Console) -> None:
    """Shows what the storage holds and what can go; with `yes` that goes. Raises InputError."""
    store = open_store(url)
    asked = {"forget": forget, "priors": priors, "library": library}
    found = clear(store, **asked) if yes else survey(store, **asked)  # type: ignore[arg-type]
    console.print(_films(found))
    freed = sum(found.bytes[name] for name in found.unneeded)
    if not found.unneeded:
        console.print(f"Everything in {store.url} is needed.", soft_wrap=True, markup=False)
        return
    console.print(_unneeded(found))
    done = "Cleared" if yes else "Nothing is cleared yet: --yes clears"
    console.print(f"{done} {len(found.unneeded)} objects, {_size(freed)}, in {store.url}", soft_wrap=True, markup=False)


def _films(found: Survey) -> Table:
    table = Table("film", "title", "state", "size", title="Kept", title_justify="left")
    sizes: dict[tuple[str, str], int] = {}
    for name, size in found.bytes.items():
        if name.startswith("results/") and name not in found.unneeded and name.count("/") == 3:
            result = name.split("/")[1], name.split("/")[2]
            sizes[result] = sizes.get(result, 0) + size
    shown = {film.request.key: film for film in reversed(found.films)}
    for key, film in shown.items():
        table.add_row(key[:12], film.title, film.state, _size(sum(sizes.get(result, 0) for result in film.results)))
    return table


def _unneeded(found: Survey) -> Table:
    table = Table("what", "objects", "size", title="Not needed", title_justify="left")
    for what, count, size in found.table():
        table.add_row(what, f"{count}", _size(size))
    return table


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
