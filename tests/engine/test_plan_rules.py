"""The paper's rules for plans, each broken once; and what is told of two plans' differences."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.plan import Box, Character, Plan, Region, Scene, load_plan
from engine.plan_rules import check_rules, diff_plans
from engine.textform import parse_text

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "the-fox-and-the-robot.plan.yaml"
PLACE = "a green forest"


def region(entity: str = "fox", motion: str = "walks right", caption: str = "", **boxes) -> Region:
    caption = caption or f"a {entity} {motion} in the forest"
    return Region(
        entity=entity, motion=motion, caption=caption, boxes={k[1:].replace("_", "-"): v for k, v in boxes.items()}
    )


def plan(*regions: Region, background: str = PLACE, **kwargs) -> Plan:
    return Plan(scenes=(Scene(id="one", background=background, regions=regions),), **kwargs)


GOOD = region(k1_3=[0.1, 0.3, 0.5, 0.9], k4_6=[0.3, 0.3, 0.7, 0.9])


def test_a_good_plan_breaks_no_rule() -> None:
    assert check_rules(plan(GOOD)) == []
    owl = region("owl", "flies up", k1_6=[0.72, 0.1, 1, 0.6])
    assert check_rules(plan(GOOD, owl)) == []


@pytest.mark.parametrize(
    ("broken", "rule", "words"),
    [
        (plan(region(k1_6=[0.1, 0.3, 0.25, 0.9])), "box size", "0.15 x 0.60"),
        (plan(region(k2=[0.1, 0.3, 0.5, 0.9])), "motion length", "lasts 1 keyframe"),
        (plan(region(caption="a cat walks right in the forest", k1_6=[0, 0, 1, 1])), "caption", "does not name 'fox'"),
        (plan(region(caption="a fox in the forest", k1_6=[0, 0, 1, 1])), "caption", "does not say 'walks right'"),
        (plan(region(caption="a fox walks right", k1_6=[0, 0, 1, 1])), "caption", "nothing of the background"),
        (plan(region(k1_3=[0, 0.3, 0.4, 0.9], k4_6=[0.6, 0.3, 1, 0.9])), "gradual boxes", r"\+0.60"),
        (plan(region(k1_3=[0, 0, 0.3, 0.9], k4_6=[0, 0, 0.6, 0.9])), "gradual boxes", "2.0-fold"),
        (plan(GOOD, region("owl", "flies up", k1_6=[0.2, 0.3, 0.6, 0.9])), "overlap", "fox and owl"),
        (plan(GOOD, background="a fox's forest"), "background", "free of characters"),
        (
            plan(
                region("ghost", k1_6=[0, 0, 1, 1]),
                characters={"ghost": Character(phrase="[v1] ghost", images=("g.png",))},
            ),
            "caption",
            r"\[v1\] ghost",
        ),
        (
            plan(*(region("fox" if n else "owl", f"act {n}", k1_6=[0.5 * (n > 0), 0, 1, 1]) for n in range(5))),
            "motions",
            "5 motions of 2 characters",
        ),
    ],
)  # fmt: skip
def test_each_rule_is_noticed(broken: Plan, rule: str, words: str) -> None:
    found = [finding for finding in check_rules(broken) if finding.rule == rule]
    assert found, check_rules(broken)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(str(found[0]))


def test_an_overlap_that_a_caption_tells_of_is_meant() -> None:
    pig = region("pig", "hugs", "a pig hugs a fox in the forest", k1_6=[0.2, 0.3, 0.6, 0.9])
    assert check_rules(plan(GOOD, pig)) == []


def test_the_example_keeps_the_rules() -> None:
    assert [str(finding) for finding in check_rules(load_plan(EXAMPLE))] == []


def test_the_authors_plans_can_be_checked(author_plans) -> None:
    broken = 0
    for name, text in author_plans:
        scene = parse_text(text, "s").scene
        found = check_rules(Plan(scenes=(scene,)))
        assert all(finding.scene == "s" and str(finding) for finding in found), name
        broken += bool(found)
    assert 0 < broken < len(author_plans)  # most of them leave the background out of a caption


def test_a_difference_says_what_is_rendered_again() -> None:
    old = plan(GOOD)
    moved = GOOD.model_copy(update={"boxes": {**GOOD.boxes, 5: Box(0.4, 0.3, 0.8, 0.9)}})
    assert diff_plans(old, old) == []
    assert diff_plans(old, plan(moved)) == ["~ scene one: fox: boxes of keyframes 5"]
    told = Plan(scenes=(old.scenes[0].model_copy(update={"narration": "Hello."}),))
    assert diff_plans(old, told) == ["~ scene one: narration (nothing is rendered again)"]
    other = plan(region("owl", "flies up", k1_6=[0, 0, 1, 1]), background="a dark forest")
    assert diff_plans(old, other) == [
        "~ scene one: background: 'a green forest' -> 'a dark forest'",
        "~ scene one: no longer fox, walks right",
        "~ scene one: now owl, flies up",
    ]
    two = Plan(scenes=(*old.scenes, old.scenes[0].model_copy(update={"id": "two"})))
    assert diff_plans(old, two) == ["+ scene two"] and diff_plans(two, old) == ["- scene two"]
    assert diff_plans(two, Plan(scenes=two.scenes[::-1])) == ["~ order of scenes: two, one"]
