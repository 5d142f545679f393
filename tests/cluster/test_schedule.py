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
    keys, workers = [k for k, _ in pairs], [w for _, w in pairs]
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
    assert assign([Waiting("k", 0, "b")], {"w0": "a", "w1": None, "w2": "b"}, {}) == [("k", "w2")]
    assert assign([Waiting("k", 0, "b")], {"w0": "a", "w1": None}, {}) == [("k", "w1")]
