"""Results are there whole, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.lease import EXPIRES_S, MARGIN_S, RENEW_S, Lease, LeaseLost, holder, newest
from cluster.store import DamagedResult, Store, content_key
from engine.errors import InputError


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path) -> Store:
    if request.param == "s3":
        return Store(request.getfixturevalue("s3_url"))
    return Store(str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}")


def test_a_result_comes_back(store: Store) -> None:
    assert store.record("scene", "k") is None
    store.put("scene", "k", {"a.bin": b"\0\1", "b.txt": b"hello"}, {"seconds": 1.5})
    assert store.get("scene", "k", "a.bin") == b"\0\1"
    assert store.record("scene", "k")["notes"] == {"seconds": 1.5}
    with pytest.raises(KeyError):
        store.get("scene", "k", "c")


def test_no_record_no_result(store: Store) -> None:
    store.write("results/scene/k/clip.mp4", b"half of")
    assert store.record("scene", "k") is None


def test_damaged_files_are_noticed_and_the_result_forgotten(store: Store) -> None:
    for damage in (lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[: len(data) // 2], lambda _: b""):
        store.put("scene", "k", {"clip.mp4": b"abcdef"}, {})
        name = store.place("scene", "k", "clip.mp4")
        store.write(name, damage(store.read(name)))
        with pytest.raises(DamagedResult):
            store.get("scene", "k", "clip.mp4")
        assert store.record("scene", "k") is None


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_record_with_a_flipped_bit_is_no_record(data) -> None:
    store = Store("memory://flipped")
    store.put("scene", "k", {"clip.mp4": b"abcdef"}, {"seconds": 1.5, "sizes": [1, 2]})
    whole, record = store.read("results/scene/k/record.json"), store.record("scene", "k")
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    broken = bytearray(whole)
    broken[bit // 8] ^= 1 << bit % 8
    store.write("results/scene/k/record.json", bytes(broken))
    assert store.record("scene", "k") in (None, record)
    assert store.put("scene", "k", {"clip.mp4": b"abcdef"}, {"seconds": 1.5, "sizes": [1, 2]}) == (
        store.read("results/scene/k/record.json") != bytes(broken)
    )
    assert store.get("scene", "k", "clip.mp4") == b"abcdef"
    store.delete("results/scene/k/record.json")


def test_of_two_results_the_first_stays_whole(store: Store) -> None:
    """A plan is not made to the same bytes twice: what came later must not mix with it."""
    assert store.put("plan", "k", {"plan.yaml": b"one", "answers.json": b"1"}, {"by": "one"})
    assert not store.put("plan", "k", {"plan.yaml": b"another", "answers.json": b"2"}, {"by": "two"})
    assert [store.get("plan", "k", name) for name in ("plan.yaml", "answers.json")] == [b"one", b"1"]
    assert store.notes("plan", "k") == {"by": "one"}


def test_records_of_the_first_version_are_read(store: Store) -> None:
    about = {"a": {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}}
    store.write("results/scene/k/a", b"x")
    store.write("results/scene/k/record.json", json.dumps({"version": 1, "files": about, "notes": {}}).encode())
    assert store.get("scene", "k", "a") == b"x"
    assert store.places("scene", "k") == {"results/scene/k/a", "results/scene/k/record.json"}


def test_a_newer_record_is_refused_by_name(store: Store) -> None:
    store.write("results/scene/k/record.json", json.dumps({"version": 99, "files": {}, "notes": {}}).encode())
    with pytest.raises(InputError, match=r"scene/k was written by a newer version .record version 99"):
        store.record("scene", "k")


def test_of_many_writers_one_wins(store: Store) -> None:
    wins: list[int] = []
    _at_once(12, lambda n: store.write_new("x", str(n).encode()) and wins.append(n))
    assert len(wins) == 1
    assert store.read("x") == str(wins[0]).encode()
    assert list(store.sizes()) == ["x"]  # nothing half-written is left


def _at_once(count: int, action) -> None:
    barrier = threading.Barrier(count)
    threads = [threading.Thread(target=lambda n=n: (barrier.wait(), action(n))) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_storage_that_ignores_conditions_is_refused(monkeypatch) -> None:
    """Two studios there would both believe that they won."""
    store = Store("memory://heedless")
    pipe = type(store.fs).pipe_file
    monkeypatch.setattr(type(store.fs), "pipe_file", lambda fs, path, data, **_: pipe(fs, path, data))
    with pytest.raises(InputError, match="ignores conditional writes"):
        store.check_writable()


def test_sizes_are_found_at_any_depth(store: Store) -> None:
    assert store.sizes() == {}
    for name in ("a", "b/c", "b/d/e"):
        store.write(name, name.encode())
    assert store.sizes() == {"a": 1, "b/c": 3, "b/d/e": 5}
    assert store.sizes("b") == {"b/c": 3, "b/d/e": 5}


def test_storage_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--storage .*cannot write there"):
        Store(str(tmp_path / "file" / "store")).check_writable()


def test_keys_depend_on_every_input_and_not_on_order() -> None:
    key = content_key("scene", 1, a=1, b=[1.5, "x"])
    assert key == content_key("scene", 1, b=[1.5, "x"], a=1)
    others = [content_key("scene", 2, a=1, b=[1.5, "x"]), content_key("film", 1, a=1, b=[1.5, "x"]),
              content_key("scene", 1, a=1, b=["x", 1.5])]  # fmt: skip
    assert len({key, *others}) == 4


# the lease


def test_a_storage_in_use_is_refused_until_its_holder_is_gone(tmp_path) -> None:
    store = Store(str(tmp_path))
    Lease(store, "one").acquire()
    one = Lease(store, "one")
    one.acquire()  # the same studio, back again
    with pytest.raises(InputError, match=f"in use by another studio .process {os.getpid()}"):
        Lease(store, "two").acquire()
    epoch, text = newest(store)
    store.write(f"lease/{epoch:010d}.json", json.dumps({**json.loads(text), "started": "0"}).encode())  # it has ended
    two = Lease(store, "two")
    two.acquire()
    one.release()  # not ours any more: no effect
    assert holder(store)["owner"] == "two"
    two.release()
    assert holder(store) is None


def test_who_lost_the_lease_is_told(store: Store) -> None:
    now = [1000.0]
    one, two = Lease(store, "one", lambda: now[0]), Lease(store, "two", lambda: now[0])
    one.acquire()
    now[0] += EXPIRES_S
    one.hold()
    now[0] += EXPIRES_S + MARGIN_S + 1  # stopped by its machine, and awake again
    two.acquire()
    with pytest.raises(LeaseLost, match="had not renewed its lease for 76 s"):
        one.hold()
    two.hold()


def test_of_many_that_want_the_storage_one_gets_it(store: Store) -> None:
    """The one before them died: all see that at once."""
    now = [1000.0]
    Lease(store, "dead", lambda: now[0]).acquire()
    now[0] += 2 * EXPIRES_S
    got: list[str] = []

    def want(n: int) -> None:
        with contextlib.suppress(InputError):
            Lease(store, f"studio {n}", lambda: now[0]).acquire()
            got.append(f"studio {n}")

    _at_once(8, want)
    assert got == [holder(store)["owner"]]


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from(["acquire", "hold", "release"]), st.integers(0, 90))))
@settings(max_examples=100, deadline=None)
def test_never_do_two_hold_the_storage(moves) -> None:
    """Whoever was just told that it holds the lease is the only one who would be told so now."""
    store, now = Store(f"memory://lease-{uuid.uuid4().hex}"), [1000.0]
    leases = {name: Lease(store, name, lambda: now[0]) for name in "ABC"}
    held: set[str] = set()
    for name, move, seconds in moves:
        now[0] += seconds
        if move == "acquire":
            with contextlib.suppress(InputError):
                leases[name].acquire()
                held.add(name)
        elif name in held:
            try:
                leases[name].hold() if move == "hold" else leases[name].release()
                held -= {name} if move == "release" else set()
            except LeaseLost:
                held.remove(name)
        believers = {n for n in held if now[0] - leases[n].renewed <= RENEW_S}
        assert len(believers) <= 1
