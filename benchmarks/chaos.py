"""Kills processes of a cluster of three nodes while films are made, and counts what is lost: nothing may be.

    python -m benchmarks.chaos [--kills 50] [--seed 0] [--kinds worker,pair,...]

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
KINDS = ("worker", "pair", "prior", "index", "planner", "studio", "raylet", "gcs", "all")
# The longest wait for the moment of a kill, in seconds: about as long as the victim's job takes.
LONGEST_S = {"prior": 8.0, "index": 3.0, "planner": 20.0}
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


def film(kind: str, number: int, store: Store, rng: random.Random) -> FilmRequest:
    """What is asked for in the round of a kill; each round's results are its own."""
    bundle, plan = load_bundle("miniature"), load_plan(PLAN)
    degree = {"worker": 1, "pair": 2, "prior": 1, "index": 1, "planner": 1}.get(kind) or rng.choice((1, 2))
    first = rng.randrange(len(plan.scenes) - 1)
    scenes = plan.scenes[first : first + (1 if degree == 2 else 2)]
    if kind in ("prior", "index"):
        old = scenes[0].regions[0]
        new = Region(entity=old.entity, motion=NEW_MOTION, caption=f"a {old.entity} {NEW_MOTION}", boxes=old.boxes)
        scenes = (scenes[0].model_copy(update={"regions": (new,)}),)
    what: dict[str, Any] = {"plan": Plan(title=f"{kind} {number}", scenes=scenes)}
    if kind == "planner":
        what = {"story": Story(title=f"{kind} {number}", text="In the forest a fox walks right.\n\nA robot dances.")}
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


def rounds(kinds: list[str], kills: int, rng: random.Random) -> list[str]:
    """A kind for each kill, each about as often as the others, in random order."""
    return list(itertools.islice(itertools.chain.from_iterable(iter(lambda: rng.sample(kinds, len(kinds)), [])), kills))


def one_round(arena: Arena, kind: str, store: Store, request: FilmRequest, rng: random.Random) -> bool:
    """Has the film made and kills meanwhile; whether a victim was found."""
    over, killed = threading.Event(), threading.Event()

    def kill() -> None:
        if arena.kill(kind, store, request, rng, over):
            killed.set()

    killer, began = threading.Thread(target=kill), time.perf_counter()
    killer.start()
    answer = arena.asker.ask(json.dumps({"ask": [request.model_dump(mode="json")], "storage": store.url}))
    over.set()
    killer.join()
    seconds = time.perf_counter() - began
    console.print(f"{request.key[:8]} {kind}: {'killed' if killed.is_set() else 'missed'}, {answer}, {seconds:.0f} s")
    return killed.is_set()


def run(folder: Path, kills: int, seed: int, kinds: list[str]) -> dict[str, Any]:
    rng = random.Random(seed)
    store, reference = Store(str(folder / "store")), Store(str(folder / "reference"))
    arena, by_kind = Arena(folder), dict.fromkeys(KINDS, 0)
    try:
        plan = rounds(kinds, kills, rng)
        requests = [film(kind, number, store, rng) for number, kind in enumerate(plan)]
        began = time.perf_counter()
        for kind, request in zip(plan, requests, strict=True):
            by_kind[kind] += one_round(arena, kind, store, request, rng)
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
        "kills": sum(by_kind.values()), "by_kind": by_kind, **counts, "left_over_processes": left,
        "time_ratio": round(disturbed / undisturbed, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="which victims, by commas")
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--kinds: {', '.join(sorted(unknown))}: not one of {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        result = run(Path(folder), arguments.kills, arguments.seed, kinds)
    order = ("kills", "by_kind", "films", "identical", "lost", "left_over_processes", "time_ratio")
    print(json.dumps({name: result[name] for name in order}))


if __name__ == "__main__":
    main()
