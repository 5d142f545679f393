"""Which job goes to which worker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.schedule import Waiting, assign

jobs = st.lists(
    st.builds(Waiting, key=st.integers(0, 20).map(str), film=st.integers(0, 4), model=st.sampled_from("ab")),
    max_size=20,
)
idle = st.dictionaries(st.integers(0, 9).map(lambda n: f"w{n}"), st.sampled_from(["a", "b", None]), max_size=8)


@given(jobs, idle, st.dictionaries(st.integers(0, 4), st.integers(0, 5)))
def test_no_worker_idles_while_work_waits(waiting, idle, running) -> None:
    pairs = assign(waiting, idle, running)
    keys, workers = [k for k, _ in pairs], [w for _, names in pairs for w in names]
    assert len(set(keys)) == len(keys) and len(set(workers)) == len(workers)
    assert set(workers) <= set(idle) and set(keys) <= {job.key for job in waiting}
    assert len(pairs) == min(len(idle), len({job.key for job in waiting}))


def test_films_share_the_workers() -> None:
    waiting = [Waiting(f"long-{n}", 0, "a") for n in range(9)] + [
        Waiting("short-0", 1, "a"),
        Waiting("short-1", 1, "a"),
    ]
    pairs = assign(waiting, {f"w{n}": "a" for n in range(4)}, {})
    assert sorted(key for key, _ in pairs) == ["long-0", "long-1", "short-0", "short-1"]


def test_a_worker_that_holds_the_model_is_preferred() -> None:
    assert assign([Waiting("k", 0, "b")], {"w0": "a", "w1": None, "w2": "b"}, {}) == [("k", ("w2",))]
    assert assign([Waiting("k", 0, "b")], {"w0": "a", "w1": None}, {}) == [("k", ("w1",))]


def test_a_job_of_several_workers_gets_them_at_once_and_is_not_passed() -> None:
    pair, single = Waiting("pair", 0, "a", workers=2), Waiting("single", 1, "a")
    assert assign([pair, single], {"w0": "a", "w1": "a", "w2": "a"}, {}) == [
        ("pair", ("w0", "w1")),
        ("single", ("w2",)),
    ]
    assert assign([pair, single], {"w0": "a"}, {}) == []  # else single jobs could pass it for ever
    assert assign([pair, single], {"w0": "a"}, {0: 1}) == [("single", ("w0",))]


def test_a_films_priors_start_before_its_scenes() -> None:
    waiting = [Waiting("prior", 0, "a"), Waiting("scene-1", 0, "a"), Waiting("scene-2", 0, "a")]
    assert [key for key, _ in assign(waiting, {"w0": "a", "w1": "a"}, {})] == ["prior", "scene-1"]
