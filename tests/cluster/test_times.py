"""How long jobs are expected to take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.times import Times

seconds = st.floats(0.001, 1e5)
measured = st.lists(st.tuples(seconds, seconds), min_size=1, max_size=30)


@given(measured)
def test_the_estimate_lies_between_what_was_seen(pairs) -> None:
    times = Times()
    for modelled, real in pairs:
        times.observe("scene", 1, "H100", modelled, real)
    ratios = [real / modelled for modelled, real in pairs]
    estimate = times.seconds("scene", 1, "H100", 10.0)
    assert 10 * min(ratios) * (1 - 1e-9) <= estimate <= 10 * max(ratios) * (1 + 1e-9)


@given(measured, seconds, seconds)
def test_steady_measurements_win(pairs, modelled, real) -> None:
    times = Times()
    for pair in pairs:
        times.observe("scene", 1, "cpu", *pair)
    before = abs(times.factor("scene", 1, "cpu") - real / modelled)
    for _ in range(40):
        times.observe("scene", 1, "cpu", modelled, real)
    after = abs(times.factor("scene", 1, "cpu") - real / modelled)
    assert after <= before * 0.7**39 + 1e-9 * real / modelled


@given(seconds, st.floats(0.1, 100))
def test_an_estimate_grows_with_the_work(modelled, factor) -> None:
    """A preview of a fifth of the steps tells what the full render takes."""
    times = Times()
    times.observe("scene", 1, "cpu", modelled, factor * modelled)
    assert times.seconds("scene", 1, "cpu", 5 * modelled) == pytest.approx(5 * factor * modelled)


def test_without_a_measurement_the_cost_model_is_believed() -> None:
    times = Times()
    assert times.seconds("scene", 2, "H100", 20.6) == 20.6
    times.observe("prior", 1, "H100", 100, 0)  # a clock that stood still says nothing
    assert times.factors == {}


def test_what_is_nearest_stands_in_for_what_was_never_measured() -> None:
    times = Times()
    times.observe("scene", 1, "H100", 10, 30)
    times.observe("scene", 4, "H100", 10, 50)
    times.observe("prior", 1, "A100", 10, 80)
    assert times.factor("scene", 2, "H100") == 3
    assert times.factor("scene", 6, "H100") == 5
    assert times.factor("scene", 1, "A100") == 8
    assert times.factor("scene", 1, "L4") == 1
