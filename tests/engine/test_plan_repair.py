"""What a program puts right in plans, and the one name of each motion."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.motion_names import normal_motion
from engine.plan import Box, Region, Scene
from engine.plan_repair import repair_scene
from engine.plan_rules import check_scene

edge = st.integers(0, 99)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Up to four regions, every fault possible."""
    regions = []
    for n in range(draw(st.integers(1, 4))):
        first = draw(st.integers(1, 5))
        boxes = {}
        for keyframe in range(first, draw(st.integers(first, 6)) + 1):
            left, top = draw(edge), draw(edge)
            right, bottom = draw(st.integers(left + 1, 100)), draw(st.integers(top + 1, 100))
            boxes[keyframe] = Box(left / 100, top / 100, right / 100, bottom / 100)
        caption = draw(st.sampled_from([f"a pet{n} hops on a beach", "something hops", f"pet{n}"]))
        regions.append(Region(entity=f"pet{n}", motion="hops", caption=caption, boxes=boxes))
    return Scene(id="one", background="a beach", regions=tuple(regions))


@settings(deadline=None)
@given(scenes(), st.booleans())
def test_what_is_put_right_breaks_no_rule(scene: Scene, merge: bool) -> None:
    repaired, done = repair_scene(scene, {}, merge)
    assert list(check_scene(repaired, {})) == []
    assert bool(done) == bool(list(check_scene(scene, {})))
    assert repair_scene(repaired, {}, merge) == (repaired, [])
    assert [(r.entity, r.motion) for r in repaired.regions] == [(r.entity, r.motion) for r in scene.regions]


@pytest.mark.parametrize(
    ("ways", "name"),
    [
        ("is hopping, hops, hopping, hop, hopped, was hopping, begins to hop", "hops"),
        ("is dancing, dances, danced, dance, starts dancing", "dances"),
        ("is running in circles, runs in circles, ran in circles, Runs in circles.", "runs in circles"),
        ("flying up, flies up, flew up", "flies up"),
        ("waving, waves", "waves"), ("watching, watches", "watches"), ("carries, carrying, carried", "carries"),
        ("tiptoes, tiptoeing", "tiptoes"), ("strolling, strolls, strolled", "strolls"),
        ("falling, falls, fell", "falls"), ("exploring, explores, explored", "explores"),
        ("sneaking, sneaks", "sneaks"), ("breathing, breathes", "breathes"), ("opening, opens, opened", "opens"),
        ("parading, parades", "parades"), ("eating, ate, eats", "eats"), ("none, None", "none"),
        ("plays, playing", "plays"), ("using, uses", "uses"), ("pulling, pulled, pulls", "pulls"),
        ("crawling, crawls", "crawls"), ("waltzing, waltzes", "waltzes"),
        ("brewing a potion, brews a potion", "brews a potion"), ("walking, walks", "walks"),
    ],
)  # fmt: skip
def test_one_name_for_a_motion(ways: str, name: str) -> None:
    assert {normal_motion(way) for way in ways.split(", ")} == {name}


def test_the_miniatures_motions_have_their_own_names() -> None:
    from engine.miniature.words import MOTIONS

    assert [normal_motion(motion) for motion in MOTIONS] == list(MOTIONS)
