"""Faults: storages that are away or full, results that are damaged, processes that hang, jobs that cannot be done."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
import ray
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import patience
from cluster.delivery import Delivery
from cluster.failures import ATTEMPTS, IN_A_ROW, Failures
from cluster.films import FilmRequest
from cluster.head import Head, HeadLost
from cluster.journal import Asked, Journal
from cluster.patience import StorageAway, StorageFull
from cluster.store import DamagedResult, Store
from cluster.watch import TIMES, UNKNOWN_S, Watch
from engine.errors import InputError
from engine.plan import Plan, Region, Scene
from engine.settings import ExecutionPlan, RenderSettings
from serving.cli import main


class Unsteady(MemoryFileSystem):
    """A file system that fails as often as it is told to, before or after it has done what was asked."""

    protocol = ("unsteady",)
    cachable = False
    faults: list[tuple[bool, Exception]]
    calls = 0

    def _fault(self, action):
        self.calls += 1
        after, error = self.faults.pop(0) if self.faults else (True, None)
        if error and not after:
            raise error
        result = action()
        if error:
            raise error
        return result

    def pipe_file(self, path, value, mode="overwrite", **_):
        return self._fault(lambda: super(Unsteady, self).pipe_file(path, value, mode=mode))

    def cat_file(self, path, **_):
        return self._fault(lambda: super(Unsteady, self).cat_file(path))

    def rm_file(self, path):
        return self._fault(lambda: super(Unsteady, self).rm_file(path))

    def ls(self, path, detail=True, **_):
        return self._fault(lambda: super(Unsteady, self).ls(path, detail=detail))


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.001)


def _unsteady(*faults: tuple[bool, Exception], seconds: float = 5.0) -> Store:
    store = Store(f"memory://{uuid.uuid4().hex}", patience=seconds)
    store.fs = Unsteady()
    store.fs.faults = list(faults)
    return store


AWAY = OSError(errno.EIO, "Could not connect to the endpoint")


# storages


@given(st.lists(st.booleans(), max_size=8), st.binary(max_size=20))
@settings(max_examples=40, deadline=None)
def test_a_storage_that_is_away_for_a_while_changes_nothing(when, data) -> None:
    """Whether an action was carried out before its answer was lost, or not."""
    patience.FIRST_WAIT_S = 0.0001
    store = _unsteady(*((after, AWAY) for after in when))
    assert store.put("scene", "k", {"clip.mp4": data}, {"n": 1})
    assert store.get("scene", "k", "clip.mp4") == data
    assert store.write_new("claim", b"me")
    assert not store.write_new("claim", b"you")
    assert store.read("claim") == b"me"
    store.delete("claim")
    assert store.read("claim") is None
    assert store.fs.faults == []


def test_a_storage_that_stays_away_is_said_so() -> None:
    store = _unsteady(*[(False, AWAY)] * 10_000, seconds=0.05)
    with pytest.raises(StorageAway, match=r"not answered for 0 s .*Could not connect to the endpoint.*run:"):
        store.write("a", b"")


def test_an_s3_server_that_is_gone_for_a_while(s3_server, s3_url) -> None:
    """Writes and reads wait for it, as a worker's do."""
    store = Store(s3_url, patience=30)
    store.write("a", b"1")
    s3_server.stop()
    timer = threading.Timer(1.0, s3_server.start)
    timer.start()
    began = time.monotonic()
    assert store.put("scene", "k", {"clip.mp4": b"abc"}, {})
    assert time.monotonic() - began >= 0.9
    timer.join()
    assert store.read("a") == b"1" and store.get("scene", "k", "clip.mp4") == b"abc"


@pytest.mark.parametrize("error", [PermissionError("no"), FileNotFoundError("no bucket"), OSError(errno.EROFS, "ro")])
def test_what_waiting_does_not_mend_is_said_at_once(error) -> None:
    store = _unsteady(*[(False, error)] * 10)
    with pytest.raises(type(error)):
        store.write("a", b"")
    assert store.fs.calls == 1


def test_the_door_does_not_wait() -> None:
    store = Store("memory://door")
    with pytest.raises(InputError, match="cannot write there"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(store.fs), "pipe_file", lambda *a, **k: (_ for _ in ()).throw(AWAY))
        store.check_writable()


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch) -> None:
    store, sync = Store(str(tmp_path / "store")), os.fsync
    assert store.put("scene", "one", {"clip.mp4": b"1" * 1000}, {})
    before = store.sizes()

    def full(file: int) -> None:
        if os.fstat(file).st_size > 500:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match=r"--storage .*/store is full; make room and run the same command"):
        store.put("scene", "two", {"clip.mp4": b"2" * 1000}, {})
    assert store.record("scene", "two") is None
    assert store.sizes() == before
    monkeypatch.setattr(os, "fsync", sync)  # somebody made room
    assert store.put("scene", "two", {"clip.mp4": b"2" * 1000}, {})


def test_a_disk_that_is_really_full(tmp_path) -> None:
    """In a file system of 64 kB of its own, where this machine lets us make one."""
    script = (
        "import sys; from cluster.store import Store; from cluster.patience import StorageFull\n"
        "store = Store(sys.argv[1])\n"
        "store.put('scene', 'one', {'clip.mp4': b'1' * 9000}, {})\n"
        "try: store.put('scene', 'two', {'clip.mp4': b'2' * 90000}, {}); print('written')\n"
        "except StorageFull: print('full')\n"
        "print(sorted(store.sizes()), len(store.get('scene', 'one', 'clip.mp4')), store.record('scene', 'two'))\n"
    )
    mount = f'mount -t tmpfs -o size=64k none {tmp_path} && exec {sys.executable} -c "$1" {tmp_path}'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", script]
    root = Path(__file__).parent.parent.parent
    run = subprocess.run(command, capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    if "unshare" in run.stderr or "mount" in run.stderr:
        pytest.skip("no file system of our own can be mounted here")
    first, second = run.stdout.splitlines()
    assert first == "full", run.stderr
    assert second.count("results/scene/one/") == 2 and second.endswith("] 9000 None")


def _request(scenes: int = 3, **changes) -> FilmRequest:
    places = [Scene(id=f"s{n}", background=f"place {n}") for n in range(scenes)]
    values = {
        "plan": Plan(scenes=places), "seed": 1, "settings": RenderSettings(num_inference_steps=5, guidance_scale=4),
        "execution": ExecutionPlan(device="cpu", dtype="float32", threads=1), "model": "m", "fingerprint": "f",
    }  # fmt: skip
    return FilmRequest(**{**values, **changes})


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: d[:40] + bytes([d[40] ^ 4]) + d[41:]])
def test_unfinished_work_that_is_damaged_counts_as_none(tmp_path, damage) -> None:
    store = Store(str(tmp_path))
    request = _request()
    job = request.film(request.plan).scenes[0]
    saves = Delivery(store, None, job).saves()
    saves.save(bytes(range(100)))
    assert saves.load() == bytes(range(100))
    store.write(f"unfinished/scene/{job.key}", damage(store.read(f"unfinished/scene/{job.key}")))
    assert saves.load() is None


def test_a_damaged_input_of_a_job_is_noticed_and_can_be_made_again(tmp_path) -> None:
    store, job = Store(str(tmp_path)), _request().film(_request().plan).scenes[0]
    store.put("prior", "p", {"prior.safetensors": b"weights"}, {})
    store.write(store.place("prior", "p", "prior.safetensors"), b"weight")
    with pytest.raises(DamagedResult):
        Delivery(store, None, job).fetch(("prior", "p"))
    assert store.record("prior", "p") is None
    store.put("prior", "p", {"prior.safetensors": b"weights"}, {})
    assert Delivery(store, None, job).fetch(("prior", "p")) == {"prior.safetensors": b"weights"}


# jobs that cannot be done


def _scenes(count: int = 5, **changes):
    request = _request(count, **changes)
    return request.film(request.plan).scenes


def test_a_broken_scene_is_given_up_alone() -> None:
    one, two, three = _scenes(3)
    failures = Failures()
    for _ in range(ATTEMPTS):
        assert failures.why_not(one) is None
        failures.failed(one, RuntimeError("trouble\nNaN in step 3"))
    assert failures.why_not(one) == "scene s0: failed 3 times: NaN in step 3"
    assert failures.why_not(two) is None
    jobs = (one, two, three)
    assert failures.end_of(jobs, {two.result}) is None  # the third can still be made
    assert failures.end_of(jobs, {two.result, three.result}) == (
        "scene s0: failed 3 times: NaN in step 3 (2 of 3 scenes are finished)"
    )


def test_what_was_asked_for_wrongly_is_not_tried_again() -> None:
    (one,) = _scenes(1)
    failures = Failures()
    failures.failed(one, InputError("no clips"))
    assert failures.why_not(one) == "scene s0: no clips"


def test_three_jobs_in_a_row_that_fail_alike_stop_their_queue() -> None:
    scenes, others = _scenes(5), _scenes(1, fingerprint="g")
    failures = Failures()
    for scene in scenes[:IN_A_ROW]:
        assert failures.stopped == {}
        for attempt in range(ATTEMPTS):
            failures.failed(scene, RuntimeError(f"CUDA error at 0x7f{attempt}3abc81: no kernel image"))
    assert failures.why_not(scenes[4]).startswith("scene s2: not tried, since 3 scene jobs in a row failed alike: CUDA")
    assert failures.why_not(others[0]) is None
    assert "CUDA error" in failures.end_of(scenes, set())
    failures.forget([])  # somebody asks for something
    assert failures.why_not(scenes[4]) is None


def test_a_success_or_another_reason_breaks_the_row() -> None:
    scenes = _scenes(7)
    failures = Failures()
    for n, scene in enumerate(scenes[:4]):
        for _ in range(ATTEMPTS):
            failures.failed(scene, RuntimeError("bad" if n % 2 else "worse"))
    assert failures.stopped == {}
    failures.finished(scenes[4])
    for scene in scenes[5:]:
        for _ in range(ATTEMPTS):
            failures.failed(scene, RuntimeError("worse"))
    assert failures.stopped == {}


def test_scenes_whose_prior_is_broken_have_no_hope() -> None:
    ghost = Region(entity="fox", motion="yodels", caption="a fox yodels", boxes={"1-6": [0, 0, 1, 1]})
    plan = Plan(scenes=(Scene(id="a", background="x", regions=(ghost,)), Scene(id="b", background="y")))
    film = _request(plan=plan, library="l").film(plan)
    failures = Failures()
    failures.failed(film.clips[0], InputError("the library has no clip of it"))
    _, b = film.scenes
    assert failures.end_of(film.jobs, set()) is None  # scene b needs no prior
    assert failures.end_of(film.jobs, {b.result}) == (
        "clips yodels: the library has no clip of it (1 of 2 scenes are finished)"
    )


# a head that is gone


def _listener(port: int = 0) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


@pytest.fixture
def unanswered(monkeypatch) -> list[Exception]:
    """What ray.get does, one after the other; at the end it gives an answer."""
    todo: list[Exception] = []

    def get(reference, timeout):
        if todo:
            raise todo.pop(0)
        return "an answer"

    monkeypatch.setattr("ray.get", get)
    monkeypatch.setattr("cluster.head.PATIENCE_S", 0.5)
    return todo


def test_a_head_that_is_there_but_busy_is_waited_for(unanswered) -> None:
    with _listener() as server:
        unanswered += [ray.exceptions.GetTimeoutError(), ConnectionError(), ray.exceptions.GetTimeoutError()]
        assert Head(f"ray://127.0.0.1:{server.getsockname()[1]}").get(None) == "an answer"


def test_a_head_that_starts_again_is_waited_for(unanswered) -> None:
    server = _listener()
    port = server.getsockname()[1]
    server.close()
    back: list[socket.socket] = []
    timer = threading.Timer(0.2, lambda: back.append(_listener(port)))
    timer.start()
    unanswered.append(ray.exceptions.GetTimeoutError())
    assert Head(f"ray://127.0.0.1:{port}").get(None) == "an answer"
    timer.join()
    back[0].close()


@pytest.mark.parametrize(
    "error", [ray.exceptions.GetTimeoutError(), ray.exceptions.ActorDiedError(), ConnectionError()]
)
def test_a_head_that_is_gone_is_said_so(unanswered, error) -> None:
    with _listener() as server:
        port = server.getsockname()[1]
    unanswered.append(error)
    with pytest.raises(HeadLost, match=rf"head at 127.0.0.1:{port} is gone .*what is finished is kept"):
        Head(f"ray://127.0.0.1:{port}").get(None)


def test_the_command_says_how_to_go_on(monkeypatch, capsys, tmp_path) -> None:
    def gone(*_, **__):
        raise HeadLost("the cluster's head at h:1 is gone")

    monkeypatch.setattr("serving.storage.clear_storage", gone)
    assert main(["gc", "--storage", str(tmp_path / "a b")]) == 3
    error = capsys.readouterr().err
    assert error.strip().endswith(f"when it is there again, run: dreamrunner gc --storage '{tmp_path}/a b'")


# processes that hang


def _watch() -> tuple[Watch, list[float]]:
    now = [0.0]
    return Watch(least=10.0, clock=lambda: now[0]), now


def test_a_job_without_progress_for_many_times_the_usual_hangs() -> None:
    (watch, now), (one, two) = _watch(), _scenes(2)
    watch.started(one)
    now[0] = UNKNOWN_S - 1  # nothing is known yet: perhaps a large model is loaded
    assert watch.hung() == {}
    for step in range(1, 6):
        now[0] += 2.0
        watch.progress(one.key, step, 5)
    now[0] += 100.0  # decoding
    watch.ended(one, well=True)

    watch.started(two)
    now[0] += 1.0
    watch.progress(two.key, 1, 5)
    now[0] += TIMES * 2.0 - 1
    assert watch.hung() == {}
    watch.progress(two.key, 1, 5)  # the same step again is no progress
    now[0] += 2.0
    assert watch.hung() == {two.key: "hung: no progress for 41 s at step 1 of 5"}
    watch.progress(two.key, 5, 5)
    now[0] += TIMES * 100.0 - 1  # what comes after the last step takes its own time
    assert watch.hung() == {}


def test_quick_steps_get_a_least_time() -> None:
    (watch, now), (one,) = _watch(), _scenes(1)
    watch.started(one)
    for step in range(1, 5):
        now[0] += 0.01
        watch.progress(one.key, step, 9)
    now[0] += 9.0
    assert watch.hung() == {}
    now[0] += 2.0
    assert list(watch.hung()) == [one.key]


def test_a_failed_attempt_teaches_nothing() -> None:
    (watch, now), (one,) = _watch(), _scenes(1)
    watch.started(one)
    now[0] += 0.5
    watch.ended(one, well=False)
    assert watch.usual == {} and watch.hung() == {}


# a journal on an unsteady storage


def test_a_journal_goes_on_after_its_storage_was_away(tmp_path) -> None:
    store = _unsteady(*[(False, AWAY), (True, AWAY)] * 3)
    journal = Journal(store)
    asked = Asked(request=_request(), workers=1, time=1.0)
    journal.ask(asked)
    journal.ended(journal.started(_scenes(1)[0]))
    journal.flush()
    assert journal.open_films() == [asked]
    assert [span.outcome for span in journal.spans([_scenes(1)[0].result])] == ["finished"]
