"""Placement groups of workers that share scenes, on a real Ray."""

from __future__ import annotations

import uuid

import pytest
from ray.util.placement_group import placement_group_table

from cluster.places import Places

pytestmark = pytest.mark.cluster


def _alive(owner: str) -> list[str]:
    return [
        about["name"]
        for about in placement_group_table().values()
        if about["name"].startswith(f"{owner}/") and about["state"] != "REMOVED"
    ]


@pytest.fixture
def owner(ray_of_two) -> str:
    return f"owner-{uuid.uuid4().hex[:8]}"


def test_those_who_share_scenes_share_a_group_until_the_last_has_left(owner) -> None:
    places = Places(owner, gpus=0)
    first, second, third = places.take(["a", "b", "c"], together=2)
    assert first["scheduling_strategy"].placement_group == second["scheduling_strategy"].placement_group
    assert "scheduling_strategy" not in third  # none is left to share with
    assert len(_alive(owner)) == 1
    places.give_back("a")
    assert len(_alive(owner)) == 1
    (again,) = places.take(["d"], together=2)  # in the room that a left
    assert again["scheduling_strategy"].placement_group == second["scheduling_strategy"].placement_group
    assert again["scheduling_strategy"].placement_group_bundle_index == 0
    for name in ("b", "d", "c"):
        places.give_back(name)
    assert _alive(owner) == []


def test_workers_that_share_nothing_need_no_group(owner) -> None:
    options = Places(owner, gpus=0).take(["a", "b"], together=1)
    assert all("scheduling_strategy" not in worker for worker in options) and _alive(owner) == []


def test_groups_of_an_owner_who_was_killed_are_cleared_and_no_others(owner) -> None:
    other = Places(f"{owner}-other", gpus=0)
    other.take(["a", "b"], together=2)
    Places(owner, gpus=0).take(["a", "b"], together=2)  # and it is gone without a word
    Places(owner, gpus=0).clear()
    assert _alive(owner) == [] and len(_alive(f"{owner}-other")) == 1
    other.give_back("a")
    other.give_back("b")
    assert _alive(f"{owner}-other") == []
