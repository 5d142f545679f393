"""The cost model: its arithmetic, and that it stays near the published times it was fitted to."""

from __future__ import annotations

import pytest

from engine.cost import COGVIDEOX_2B, COGVIDEOX_5B, H100, forward_flops, prior_cost, scene_cost


@pytest.mark.parametrize(("shape", "published"), [(COGVIDEOX_2B, 45), (COGVIDEOX_5B, 90)])
def test_one_gpu_is_near_the_published_time(shape, published) -> None:
    assert scene_cost(shape, 1, 50, H100).seconds == pytest.approx(published, rel=0.25)


def test_guidance_shares_out_all_but_the_decoding() -> None:
    alone, two = (scene_cost(COGVIDEOX_5B, 4, 50, H100, guidance).seconds for guidance in (1, 2))
    assert two - H100.decode == pytest.approx((alone - H100.decode) / 2, rel=0.01)


def test_ulysses_repeats_text_and_sends_tokens() -> None:
    alone, two = (scene_cost(COGVIDEOX_2B, 4, 50, H100, 1, ulysses) for ulysses in (1, 2))
    assert alone.bytes_sent == 0 < two.bytes_sent
    assert two.flops > alone.flops  # every worker has all of the text
    assert two.gigabytes < alone.gigabytes and two.seconds > alone.seconds / 2
    assert forward_flops(COGVIDEOX_2B, 12) > forward_flops(COGVIDEOX_2B, 4)


def test_a_prior_costs_its_steps() -> None:
    one, two = (prior_cost(COGVIDEOX_2B, steps, 1, H100).seconds for steps in (100, 200))
    assert two == pytest.approx(2 * one)
