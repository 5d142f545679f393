"""Kills processes of a cluster of three nodes while films are made, and counts what is lost: nothing may be.

    python -m benchmarks.chaos [--kills 50] [--seed 0] [--kinds worker,pair,...] [--per-film 1]

Each kill is a SIGKILL at a random moment while its victim runs a job: a worker that renders alone (worker), one of two
that share a scene (pair), one that learns a prior (prior), the index, the planner, the studio, the raylet of a node,
the GCS (durable; it is started again), or every process of the cluster at once (all; a new cluster goes on from the
store). Who asks for the films is a process of its own (chaos_asker.py), which knows what it asked for and compares
every film and every scene's latents with an undisturbed run of the same requests. The last line is one JSON object;
time_ratio is the time of the run with kills by that of the undisturbed one, both on this machine, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from cluster.films import FilmRequest, request_of
from cluster.journal import Journal
from cluster.store import Store
from engine.models import load_bundle
from engine.plan import Plan, Region, load_plan
from engine.settings import ExecutionPlan, RenderSettings
from engine.story import Story

console = Console(stderr=True)
ROOT = Path(__file__).parent.parent
PLAN = ROOT / "examples" / "the-fox-and-the-robot.plan.yaml"
DEGREES = {"worker": 1, "pair": 2, "prior": 1, "index": 1, "planner": 1}  # of the scenes; others take what comes
OF_THEIR_OWN = ("prior", "index", "planner")  # a film for each such kill
KINDS = ("worker", "pair", "prior", "index", "planner", "studio", "raylet", "gcs", "all")
# The longest wait for the moment of a kill, in seconds: about as long as the victim's job takes.
LONGEST_S = {"prior": 8.0, "index": 0.5, "planner": 20.0}
STEPS, PRIOR_STEPS = 12, 30  # what is saved every 5 and 25 steps
NEW_MOTION = "spins around"
TITLES = {"index": "ray::Index.", "planner": "ray::Planner", "studio": "ray::Studio", "prior": "ray::Worker.learn"}
RENDERING = "ray::Worker.render"
FIND_S, END_S = 300.0, 30.0


class Lines:
    """A child process that answers each line with a line of JSON."""

    def __init__(self, module: str, folder: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=(folder / f"{module}.log").open("a"), text=True, cwd=ROOT, env=os.environ | environment,
        )  # fmt: skip

    def tell(self, line: str) -> None:
        print(line, file=self._pipe(self.process.stdin), flush=True)

    def hear(self) -> dict[str, Any]:
        return json.loads(self._pipe(self.process.stdout).readline())

    def ask(self, line: str) -> dict[str, Any]:
        self.tell(line)
        return self.hear()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe
        return pipe


class Family:
    """All processes that a process began, and those that they began: also when their parents are gone."""

    def __init__(self) -> None:
        self.known: dict[int, str] = {}  # pid -> when it began
        self.ending = False
        self.lock = threading.Lock()
        threading.Thread(target=self._follow, daemon=True).start()

    def add(self, pid: int) -> None:
        with self.lock:
            self.known[pid] = _stat(pid)[1]

    def alive(self) -> dict[int, str]:
        """pid -> title."""
        with self.lock:
            self._look()
            return {pid: _title(pid) for pid, began in self.known.items() if _stat(pid)[1] == began}

    def _follow(self) -> None:
        while not self.ending:
            with self.lock:
                self._look()
            time.sleep(0.1)

    def _look(self) -> None:
        found = {int(p.name): _stat(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()}
        new = True
        while new:
            new = {
                pid: began for pid, (parent, began) in found.items()
                if pid not in self.known and found.get(parent, (0, ""))[1] == self.known.get(parent, "-")
            }  # fmt: skip
            self.known |= new


def _stat(pid: int) -> tuple[int, str]:
    """Parent and start of a process; (0, "") when it is gone or only waits to be taken note of."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0, ""
    return (0, "") if fields[0] in "ZX" else (int(fields[1]), fields[19])


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


class Arena:
    """A cluster, and who asks it for films."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.family, self.clusters = folder, Family(), 0
        self.sessions = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a short path: Ray's sockets lie there
        self.asker = Lines("benchmarks.chaos_asker", folder)
        self.start()

    def start(self) -> None:
        self.clusters += 1
        place = self.folder / f"cluster-{self.clusters}"
        place.mkdir()
        self.cluster = Lines("benchmarks.chaos_cluster", place, RAY_TMPDIR=self.sessions)
        self.family.add(self.cluster.process.pid)
        (self.folder / "address").write_text(self.cluster.hear()["address"])

    def running(self, title: str) -> list[int]:
        return sorted(pid for pid, name in self.family.alive().items() if name.startswith(title))

    def victims(self, kind: str, store: Store, request: FilmRequest) -> list[int]:
        """Processes of the kind that run a job now."""
        if kind == "planner":
            assert request.plan_job
            spans = Journal(store).spans([request.plan_job.result])
            return self.running(TITLES[kind]) if spans and spans[-1].outcome is None else []
        if kind in ("index", "prior"):
            return self.running(TITLES[kind])
        rendering = self.running(RENDERING)
        if kind == "worker" or not rendering:
            return rendering
        if kind == "pair":
            return rendering if len(rendering) == 2 else []
        if kind == "studio":
            return self.running(TITLES[kind])
        if kind == "raylet":
            busy = {_stat(pid)[0] for pid in rendering}
            return [pid for pid in self.cluster.ask("pids")["raylets"] if pid in busy]
        return [self.cluster.ask("pids")["gcs"]] if kind == "gcs" else list(self.family.alive())

    def kill(self, kind: str, store: Store, request: FilmRequest, rng: random.Random, over: threading.Event) -> bool:
        """Kills a victim of the kind; False when the film was finished before there was one."""
        deadline = time.monotonic() + FIND_S
        while not self.victims(kind, store, request):
            if over.wait(0.05) or time.monotonic() > deadline:
                return False
        over.wait(rng.uniform(0, LONGEST_S.get(kind, 2.0)))
        while not (victims := self.victims(kind, store, request)):
            if over.wait(0.02) or time.monotonic() > deadline:
                return False
        for pid in victims if kind == "all" else [rng.choice(victims)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if kind == "all":
            self.cluster.process.wait()
            self.start()
        elif kind == "raylet":
            self.cluster.ask("node")
        elif kind == "gcs":
            self.cluster.ask("gcs")
        return True

    def end_cluster(self) -> None:
        try:
            self.cluster.tell("end")
            self.cluster.process.wait(60)
        except (OSError, subprocess.TimeoutExpired):
            self.cluster.process.kill()

    def end(self) -> int:
        """Ends everything; how many processes of the clusters are left over."""
        self.end_cluster()
        self._pipe_end(self.asker)
        deadline = time.monotonic() + END_S
        while (left := self.family.alive()) and time.monotonic() < deadline:
            time.sleep(0.5)
        self.family.ending = True
        for pid, title in left.items():
            console.print(f"left over: {pid} {title[:100]}", markup=False)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.sessions, ignore_errors=True)
        return len(left)

    @staticmethod
    def _pipe_end(child: Lines) -> None:
        assert child.process.stdin
        child.process.stdin.close()
        child.process.wait(60)


def film(kinds: list[str], degree: int, number: int, store: Store, rng: random.Random) -> FilmRequest:
    """What is asked for in a round, with work for all of its kills; each round's results are its own."""
    bundle, plan, title = load_bundle("miniature"), load_plan(PLAN), f"{' '.join(kinds)} {number}"
    many = min(len(kinds) * 2 // degree, len(plan.scenes) - 1)
    first = rng.randrange(len(plan.scenes) - many)
    scenes = plan.scenes[first : first + many]
    if kinds[0] in ("prior", "index"):
        old = scenes[0].regions[0]
        new = Region(entity=old.entity, motion=NEW_MOTION, caption=f"a {old.entity} {NEW_MOTION}", boxes=old.boxes)
        scenes = (scenes[0].model_copy(update={"regions": (new,)}),)
    what: dict[str, Any] = {"plan": Plan(title=title, scenes=scenes)}
    if kinds[0] == "planner":
        what = {"story": Story(title=title, text="In the forest a fox walks right.\n\nA robot dances.")}
    few = bundle.model_copy(update={"priors": bundle.priors.model_copy(update={"steps": PRIOR_STEPS, "batch": 1})})
    request = request_of(
        few, "miniature", store, seed=number, settings=RenderSettings(num_inference_steps=STEPS, guidance_scale=4),
        execution=ExecutionPlan(device="cpu", dtype="float32", threads=1, guidance_degree=degree), **what,
    )  # fmt: skip
    return request.model_copy(update={"library_version": f"{number}"})  # so that each round asks the index anew


def as_planned(request: FilmRequest, store: Store) -> FilmRequest:
    """A story's request as that of the plan which was made of it."""
    plan = request.stored_plan(store)
    return request.model_copy(update={"story": None, "plan": plan}) if plan else request


def rounds(kinds: list[str], kills: int, per_film: int, rng: random.Random) -> list[tuple[int, list[str]]]:
    """The degree of each film's scenes, and its kills in turn: each kind about as often as the others, in random
    order."""
    order = itertools.chain.from_iterable(iter(lambda: rng.sample(kinds, len(kinds)), []))
    films: list[tuple[int, list[str]]] = []
    for kind in itertools.islice(order, kills):
        degree, most = DEGREES.get(kind) or rng.choice((1, 2)), 1 if kind in OF_THEIR_OWN else per_film
        mates = [film for of, film in films if of == degree and len(film) < most and film[0] not in OF_THEIR_OWN]
        if mates:
            mates[0].append(kind)
        else:
            films.append((degree, [kind]))
    return films


def one_round(
    arena: Arena, kinds: list[str], store: Store, request: FilmRequest, rng: random.Random
) -> tuple[list[str], list[str]]:
    """Has the film made and kills meanwhile; the kinds of which a victim was found, and those of which none was."""
    over, killed, missed = threading.Event(), list[str](), list[str]()

    def kill() -> None:
        for kind in kinds:
            (killed if arena.kill(kind, store, request, rng, over) else missed).append(kind)

    killer, began = threading.Thread(target=kill), time.perf_counter()
    killer.start()
    answer = arena.asker.ask(json.dumps({"ask": [request.model_dump(mode="json")], "storage": store.url}))
    over.set()
    killer.join()
    seconds = time.perf_counter() - began
    console.print(f"{request.key[:8]} killed: {killed}, missed: {missed}, {answer}, {seconds:.0f} s", markup=False)
    return killed, missed


def run(folder: Path, kills: int, seed: int, kinds: list[str], per_film: int) -> dict[str, Any]:
    rng = random.Random(seed)
    store, reference = Store(str(folder / "store")), Store(str(folder / "reference"))
    arena, killed = Arena(folder), list[str]()
    try:
        films, requests = rounds(kinds, kills, per_film, rng), list[FilmRequest]()
        began, most = time.perf_counter(), 2 * len(films)
        for degree, those in films:
            requests.append(film(those, degree, len(requests), store, rng))
            found, missed = one_round(arena, those, store, requests[-1], rng)
            killed += found
            if missed and len(films) < most:  # the film was finished first: another one, later
                films.append((degree, missed))
        disturbed = time.perf_counter() - began
        arena.end_cluster()  # its studio has the workers
        arena.start()
        began = time.perf_counter()
        for request in requests:
            again = as_planned(request, store).model_copy(update={"library": f"{reference.url}/library/miniature"})
            arena.asker.ask(json.dumps({"ask": [again.model_dump(mode="json")], "storage": reference.url}))
        undisturbed = time.perf_counter() - began
        counts = arena.asker.ask(json.dumps({"count": [store.url, reference.url]}))
    finally:
        left = arena.end()
    return {
        "kills": len(killed), "by_kind": {kind: killed.count(kind) for kind in KINDS}, **counts,
        "left_over_processes": left, "time_ratio": round(disturbed / undisturbed, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="which victims, by commas")
    parser.add_argument("--per-film", type=int, default=1, help="kills that one film meets, at most")
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--kinds: {', '.join(sorted(unknown))}: not one of {', '.join(KINDS)}")
    if not 1 <= arguments.per_film <= 5:
        parser.error(f"--per-film: {arguments.per_film} is not in 1..5")
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        result = run(Path(folder), arguments.kills, arguments.seed, kinds, arguments.per_film)
    order = ("kills", "by_kind", "films", "identical", "lost", "left_over_processes", "time_ratio")
    print(json.dumps({name: result[name] for name in order}))


if __name__ == "__main__":
    main()
