"""Who asks for films while benchmarks.chaos kills, and keeps a list of its own of what it asked for.

    python -m benchmarks.chaos_asker FOLDER

Reads lines: {"ask": [requests], "storage": url, "workers": 2} has them made by a command of its own, which is run again
as it stands until it ends well, whatever happened to the cluster at the address in FOLDER/address; {"count": [storage,
reference]} answers how many films it asked for there, how many are lost, and how many are the same to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

from cluster.films import FilmRequest
from cluster.store import DamagedResult, Store

GIVE_UP_S = 600.0
EXIT_LOST = 3


def main(folder: Path) -> None:
    asked = folder / "asked.jsonl"
    for line in sys.stdin:
        order = json.loads(line)
        if "ask" in order:
            with asked.open("a") as file:
                file.writelines(json.dumps({"storage": order["storage"], "request": r}) + "\n" for r in order["ask"])
            answer = ask(folder, len(order["ask"]), order.get("workers", 2))
        else:
            answer = count([json.loads(line) for line in asked.read_text().splitlines()], *order["count"])
        print(json.dumps(answer), flush=True)


def ask(folder: Path, films: int, workers: int) -> dict:
    """Runs the command for the last films of the list until they are made."""
    deadline, exits = time.monotonic() + GIVE_UP_S, list[int]()
    command = [sys.executable, "-m", "benchmarks.chaos_asker", "--render", str(folder), str(films), str(workers)]
    while (left := deadline - time.monotonic()) > 0:
        try:
            exits.append(subprocess.run(command, stdout=sys.stderr, timeout=left).returncode)
        except subprocess.TimeoutExpired:
            break
        if exits[-1] == 0:
            return {"exits": exits}
        time.sleep(1)
    return {"failed": True, "exits": exits}


def render(folder: Path, films: int, workers: int) -> int:
    """The command: its exit code is 0, 1 (a film failed) or 3 (the cluster is gone)."""
    from cluster.client import render_films
    from cluster.head import HeadLost

    last = [json.loads(line) for line in (folder / "asked.jsonl").read_text().splitlines()[-films:]]
    requests = [FilmRequest.model_validate(entry["request"]) for entry in last]
    address = (folder / "address").read_text()
    try:
        render_films(Store(last[0]["storage"]), requests, workers, address, lambda states: None)
    except HeadLost as lost:
        print(lost, file=sys.stderr)
        return EXIT_LOST
    return 0


def count(asked: list[dict], storage: str, reference: str) -> dict[str, int]:
    """`films` asked for in a storage, how many are not there whole, and how many are as in the reference."""
    wanted = [FilmRequest.model_validate(entry["request"]) for entry in asked if entry["storage"] == storage]
    wanted = list({request.key: request for request in wanted}.values())
    films = [files(Store(storage), request) for request in wanted]
    here = [hashes(Store(storage), names) for names in films]
    there = [hashes(Store(reference), names) for names in films]
    same = sum(one is not None and one == other for one, other in zip(here, there, strict=True))
    return {"films": len(wanted), "lost": here.count(None), "identical": same}


def files(store: Store, request: FilmRequest) -> list[tuple[str, str, str]]:
    """What a film is compared by: itself and its scenes' latents; empty when it is not there."""
    film = request.finished(store)
    if film is None:
        return []
    scenes = [("scene", job.key, "latents.safetensors") for job in film.scenes]
    return [("film", film.key, "film.mp4"), *scenes]


def hashes(store: Store, names: list[tuple[str, str, str]]) -> list[str] | None:
    """Their sha256; None unless all are there and whole."""
    try:
        return [hashlib.sha256(store.get(*name)).hexdigest() for name in names] or None
    except (DamagedResult, KeyError):
        return None


if __name__ == "__main__":
    if sys.argv[1] == "--render":
        sys.exit(render(Path(sys.argv[2]), *map(int, sys.argv[3:])))
    main(Path(sys.argv[1]))
