"""Results are there whole, or not at all."""

from __future__ import annotations

import json
import os
import threading

import pytest

from cluster.lease import Lease
from cluster.store import DamagedResult, Store, content_key
from engine.errors import InputError


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path) -> Store:
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


def test_a_flipped_bit_is_noticed_and_the_result_forgotten(store: Store) -> None:
    store.put("scene", "k", {"clip.mp4": b"abcdef"}, {})
    store.write("results/scene/k/clip.mp4", b"abcdeg")
    with pytest.raises(DamagedResult):
        store.get("scene", "k", "clip.mp4")
    assert store.record("scene", "k") is None


def test_a_newer_record_is_refused_by_name(store: Store) -> None:
    store.write("results/scene/k/record.json", json.dumps({"version": 99, "files": {}, "notes": {}}).encode())
    with pytest.raises(InputError, match=r"version 99"):
        store.record("scene", "k")


def test_of_many_writers_one_wins(tmp_path) -> None:
    store = Store(str(tmp_path))
    wins, threads = [], []
    for n in range(16):
        threads.append(threading.Thread(target=lambda n=n: store.write_new("x", str(n).encode()) and wins.append(n)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.read("x") == str(wins[0]).encode()
    assert store.list("") == ["x"]  # nothing half-written is left


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


def test_a_storage_in_use_is_refused_until_its_holder_is_gone(tmp_path) -> None:
    store = Store(str(tmp_path))
    Lease(store, "one").acquire()
    Lease(store, "one").acquire()  # the same studio, back again
    with pytest.raises(InputError, match=f"in use by another studio .process {os.getpid()}"):
        Lease(store, "two").acquire()
    held = json.loads(store.read("lease.json"))
    store.write("lease.json", json.dumps({**held, "started": "0"}).encode())  # its process has ended
    Lease(store, "two").acquire()
    Lease(store, "one").release()  # not ours any more: no effect
    assert json.loads(store.read("lease.json"))["owner"] == "two"
    Lease(store, "two").release()
    assert store.read("lease.json") is None
