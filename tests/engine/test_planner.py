"""The planner around a scripted chat model, and the grammar that the miniature's adapter is trained on."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from engine.errors import InputError
from engine.models import PlannerModel, load_bundle
from engine.plan import KEYFRAMES, dump_plan, parse_plan
from engine.planner import PlanningFailed, plan_story
from engine.planner_outline import Repairable, StoryScene, check_outline, joined
from engine.planner_prompts import sentences_at_once, topic_schema
from engine.story import Story

ROOT = Path(__file__).parent.parent.parent
SMALL = load_bundle("miniature")  # asked about one sentence at a time
MINIATURE = SMALL.model_copy(update={"planner": SMALL.planner.model_copy(update={"sentences_at_once": None})})
ANY_WORDS = MINIATURE.model_copy(
    update={"words": None, "planner": PlannerModel(model="some-model"), "text_tokens": 226}
)
TEXT = "A fox set out through the forest. It was cold. On the beach a dragon spun around!"
OUTLINE = {
    "scenes": [
        {"sentences": [1, 2], "place": "forest", "motions": ["walks right"]},
        {"sentences": [3], "place": "beach", "motions": ["spins around"]},
    ]
}
WALK = {"regions": [{"entity": "fox", "motion": "walks right", "from": [4, 36, 40, 96], "to": [56, 36, 92, 96]}]}
SPIN = {"regions": [{"entity": "dragon", "motion": "spins around", "from": [30, 30, 70, 98]}]}


class Script:
    """Gives prepared answers: of level 1 in order, of level 2 by a word of the narration, in order."""

    def __init__(self, story: list, scenes: dict[str, list]) -> None:
        self.story, self.scenes = list(story), {word: list(answers) for word, answers in scenes.items()}
        self.asked: list[tuple[list[dict[str, str]], dict, int, float]] = []
        self.without_adapter = 0

    async def complete(self, messages, schema, seed, max_tokens, temperature=0.0, adapter=True) -> str:
        self.asked.append((messages, schema, seed, temperature))
        self.without_adapter += not adapter
        last = messages[1]["content"].splitlines()[-1]
        scene = "regions" in schema["properties"]
        queue = next(a for w, a in self.scenes.items() if w in last) if scene else self.story
        answer = queue.pop(0)
        return answer if isinstance(answer, str) else json.dumps(answer)


def story(text: str = TEXT, *characters: str) -> Story:
    return Story(title="Cold", text=text, characters=dict.fromkeys(characters, ("0" * 64,)))


async def planned(script: Script, bundle=MINIATURE, told: Story | None = None):
    seen: list[tuple[int, int]] = []
    told = told or story(TEXT, "ghost", "dragon")
    planning = await plan_story(told, bundle, script, 7, lambda done, total: seen.append((done, total)))
    return planning, seen


async def test_a_story_becomes_a_plan() -> None:
    script = Script([OUTLINE], {"fox": [WALK], "dragon": [SPIN]})
    planning, seen = await planned(script)
    first, second = planning.plan.scenes
    assert (first.id, second.id) == ("scene-1-forest", "scene-2-beach")
    assert first.narration == "A fox set out through the forest. It was cold."
    assert "forest" in first.background.split()
    assert first.regions[0].caption == "a fox walks right in the forest"
    assert second.regions[0].entity == "dragon"
    assert second.regions[0].caption.startswith("a [v2] dragon spins around ")  # the second given character
    assert seen == [(0, 0), (0, 2), (1, 2), (2, 2)]
    assert [(a["level"], a["attempt"], a["refused"]) for a in planning.answers] == [
        ("story", 1, None), ("scene", 1, None), ("scene", 1, None)]  # fmt: skip
    assert parse_plan(dump_plan(planning.plan)) == planning.plan


async def test_boxes_move_evenly_from_first_to_last_keyframe() -> None:
    late = {"regions": [{**WALK["regions"][0], "frames": [3, 5]}]}
    planning, _ = await planned(Script([OUTLINE], {"fox": [late], "dragon": [SPIN]}))
    boxes = planning.plan.scenes[0].regions[0].boxes
    assert boxes == {3: (0.04, 0.36, 0.4, 0.96), 4: (0.3, 0.36, 0.66, 0.96), 5: (0.56, 0.36, 0.92, 0.96)}
    assert set(planning.plan.scenes[1].regions[0].boxes.values()) == {(0.3, 0.3, 0.7, 0.98)}
    assert list(planning.plan.scenes[1].regions[0].boxes) == list(range(1, KEYFRAMES + 1))


async def test_who_goes_on_with_the_same_has_one_region() -> None:
    first, last = (
        {**WALK["regions"][0], "frames": [1, 3]},
        {**WALK["regions"][0], "frames": [4, 6], "from": [56, 36, 92, 96]},
    )
    planning, _ = await planned(Script([OUTLINE], {"fox": [{"regions": [first, last]}], "dragon": [SPIN]}))
    (walks,) = planning.plan.scenes[0].regions
    assert list(walks.boxes) == [1, 2, 3, 4, 5, 6] and (walks.boxes[1].left, walks.boxes[6].left) == (0.04, 0.56)


async def test_what_only_describes_is_told_but_not_asked_to_be_shown() -> None:
    told = story("It was late. A fox set out. The pig was sad. It danced.")
    outlines = [
        {"scenes": [{"sentences": [1], "place": "forest", "motions": m}]} for m in ([], ["walks right"], [], ["dances"])
    ]
    dance = {"regions": [{**WALK["regions"][0], "motion": "dances"}]}
    script = Script(outlines, {"set out": [WALK], "It danced": [dance]})
    planning, _ = await planned(script, SMALL, told)
    assert [scene.narration for scene in planning.plan.scenes] == [
        "It was late. A fox set out. The pig was sad.",
        "It danced.",
    ]
    first, second = (asked[0][1]["content"] for asked in script.asked[-2:])
    assert "pig" not in first and first.endswith("Narration: A fox set out.")
    assert "Before: It was late. A fox set out. The pig was sad." in second  # "it" may be the pig


async def test_two_motions_of_one_follow_each_other() -> None:
    dance = {**WALK["regions"][0], "motion": "dances"}
    both = {"regions": [*WALK["regions"], dance]}
    planning, _ = await planned(Script([OUTLINE], {"fox": [both], "dragon": [SPIN]}))
    walks, dances = planning.plan.scenes[0].regions
    assert (list(walks.boxes), list(dances.boxes)) == ([1, 2, 3], [4, 5, 6])


async def test_the_same_motion_twice_is_done_once() -> None:
    again = {**WALK["regions"][0], "from": [50, 36, 86, 96], "to": [54, 36, 90, 96]}
    planning, _ = await planned(Script([OUTLINE], {"fox": [{"regions": [*WALK["regions"], again]}], "dragon": [SPIN]}))
    (walks,) = planning.plan.scenes[0].regions
    assert (walks.boxes[1].left, walks.boxes[6].right) == (0.04, 0.92)  # as the first says
    first, then = {**WALK["regions"][0], "frames": [1, 3]}, {**again, "frames": [4, 6]}
    planning, _ = await planned(Script([OUTLINE], {"fox": [{"regions": [first, then]}], "dragon": [SPIN]}))
    (walks,) = planning.plan.scenes[0].regions
    assert (walks.boxes[1].left, walks.boxes[6].right) == (0.04, 0.9)  # it goes on


def region(**changes) -> dict:
    return {"regions": [{**WALK["regions"][0], **changes}]}


TWICE = {"regions": [*WALK["regions"], {**WALK["regions"][0], "motion": "dances", "frames": [5, 6]}]}
SAME_PLACE = {"regions": [*WALK["regions"], {**WALK["regions"][0], "entity": "pig"}]}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('{"regions": [{"ent', "Invalid JSON"),
        (region(**{"from": [4, 36, 20, 96]}), "sides should be 0.2 or more"),
        (region(to=[50, 36, 40, 96]), "left less than right"),
        (region(to=[50, 36, 140, 96]), "less than or equal to 100"),
        (region(frames=[5, 2]), "comes after the last"),
        (region(entity="unicorn"), "no such entity"),
        (region(motion="thinks"), "no such motion"),
        (TWICE, "two regions in one keyframe"),
        (SAME_PLACE, "100% of the smaller box is in the other"),
        ({"regions": WALK["regions"] * 5}, "at most 4"),
    ],
)
async def test_a_wrong_scene_goes_back_with_the_reason(answer, reason: str) -> None:
    script = Script([OUTLINE], {"fox": [answer, WALK], "dragon": [SPIN]})
    planning, _ = await planned(script)
    refused = [a for a in planning.answers if a["refused"]]
    assert len(refused) == 1
    assert reason in refused[0]["refused"]
    assert refused[0]["scene"] == "scene-1-forest"
    messages, _, _, temperature = next(asked for asked in script.asked if len(asked[0]) > 2)
    assert reason in messages[-1]["content"]
    assert temperature > 0  # the same question again would get the same answer
    assert len({seed for _, _, seed, _ in script.asked}) == 4  # each has its own
    assert len(planning.plan.scenes[0].regions) == 1


async def test_two_in_one_place_are_put_side_by_side_when_the_model_does_not() -> None:
    planning, _ = await planned(Script([OUTLINE], {"fox": [SAME_PLACE] * 3, "dragon": [SPIN]}))
    fox, pig = planning.plan.scenes[0].regions
    assert all(fox.boxes[k].right <= pig.boxes[k].left for k in fox.boxes)
    first = next(a for a in planning.answers if a["level"] == "scene" and a["number"] == 1)
    assert (first["refused"], "side by side" in first["repaired"]) == (None, True)


async def test_a_place_that_the_story_names_is_held_to() -> None:
    wrong = {"scenes": [OUTLINE["scenes"][0], {**OUTLINE["scenes"][1], "place": "night"}]}
    planning, _ = await planned(Script([wrong], {"fox": [WALK], "dragon": [SPIN]}))
    assert [scene.id for scene in planning.plan.scenes] == ["scene-1-forest", "scene-2-beach"]
    repaired = "scene 2 is on the beach, so its place is beach: given the place that the story names"
    assert (planning.answers[0]["refused"], planning.answers[0]["repaired"]) == (None, repaired)


@pytest.mark.parametrize(
    ("sentence", "place"),
    [
        ("A fox walked through the deep forest.", "forest"),
        ("At night a fox walked.", "night"),
        ("A fox walked by the sea.", "snow"),  # the beach, perhaps: not for a program to say
        ("A fox was no longer in the forest.", "snow"),
        ("In the forest a fox walked into the city.", "snow"),
    ],
)
def test_places_that_a_program_can_read(sentence: str, place: str) -> None:
    answered = [StoryScene(sentences=[1], place="snow", motions=["walks right"])]
    try:
        scenes = check_outline(answered, [sentence], MINIATURE.words)
    except Repairable as wrong:
        scenes = wrong.answer
    assert scenes[0].place == place


async def test_a_scene_of_two_places_is_divided() -> None:
    outline = {"scenes": [{"sentences": [1, 2, 3], "place": "snow", "motions": ["walks right"]}]}
    planning, _ = await planned(Script([outline], {"fox": [WALK], "dragon": [SPIN]}))
    assert [scene.id for scene in planning.plan.scenes] == ["scene-1-forest", "scene-2-beach"]
    assert planning.plan.scenes[0].narration == "A fox set out through the forest. It was cold."
    assert "divided where the place changes" in planning.answers[0]["repaired"]


async def test_what_only_describes_makes_no_scene() -> None:
    told = story(
        "It was cold. A fox walks right in the forest. Snow fell. On the beach a dragon spins around.", "dragon"
    )
    places = ("snow", "forest", "forest", "beach")
    motions = ([], ["walks right"], [], ["spins around"])
    scenes = [
        {"sentences": [n], "place": p, "motions": m} for n, p, m in zip(range(1, 5), places, motions, strict=True)
    ]
    planning, _ = await planned(Script([{"scenes": scenes}], {"fox": [WALK], "dragon": [SPIN]}), told=told)
    first, second = planning.plan.scenes
    assert first.narration == "It was cold. A fox walks right in the forest. Snow fell."
    assert "repaired" not in planning.answers[0]
    assert (first.id, second.id) == ("scene-1-forest", "scene-2-beach")


@pytest.mark.parametrize(
    ("second", "place", "scenes"),
    [
        ("At the same time a pig danced.", "forest", [[1, 2, 3]]),
        ("Right beside it, a pig danced.", "forest", [[1, 2, 3]]),
        ("And at his side a pig danced.", "forest", [[1, 2, 3]]),
        ("At the same time a pig danced.", "beach", [[1, 2], [3]]),  # elsewhere: another shot
        ("A pig danced beside it.", "forest", [[1, 2], [3]]),
        ("Behind it lay the mountains.", "forest", [[1, 2, 3]]),  # which only describes
    ],
)
def test_what_begins_with_at_the_same_time_is_the_same_shot(second: str, place: str, scenes: list[list[int]]) -> None:
    sentences = ["A fox walked to the right in the forest.", "It was cold.", second]
    motions = ["dances"] if "danced" in second else []
    answered = [
        StoryScene(sentences=[1], place="forest", motions=["walks right"]),
        StoryScene(sentences=[2], place="forest"),
        StoryScene(sentences=[3], place=place, motions=motions),
    ]
    made = joined(answered, sentences)
    assert [scene.sentences for scene in made] == scenes
    assert made[0].motions == ["walks right", *(motions if scenes == [[1, 2, 3]] else [])]
    assert made[0].quiet == ([2, 3] if not motions else [2])


async def test_a_small_model_is_asked_about_one_sentence_at_a_time() -> None:
    told = story(
        "It was cold. A fox walks right in the forest. Snow fell. On the beach a dragon spins around.", "dragon"
    )
    said = (("meadow", []), ("forest", ["walks right"]), ("forest", []), ("beach", ["spins around"]))
    script = Script(
        [{"scenes": [{"sentences": [1], "place": place, "motions": motions}]} for place, motions in said],
        {"fox": [WALK], "dragon": [SPIN]},
    )
    planning, _ = await planned(script, SMALL, told)
    first, second = planning.plan.scenes
    assert (first.id, second.id) == ("scene-1-forest", "scene-2-beach")
    assert first.narration == "It was cold. A fox walks right in the forest. Snow fell."
    asked = [messages[1]["content"] for messages, _, _, _ in script.asked[:4]]
    assert "Place:" not in asked[0] and "Place: forest\n" in asked[3]
    assert all("\n1 " in content and "\n2 " not in content for content in asked)


async def test_a_motion_that_the_story_names_must_be_done() -> None:
    told = story("A fox jumps up and down in the forest.")
    outline = {"scenes": [{"sentences": [1], "place": "forest", "motions": ["walks right"]}]}
    jump = {"regions": [{"entity": "fox", "motion": "jumps up and down", "from": [30, 10, 70, 98]}]}
    planning, _ = await planned(Script([outline], {"fox": [WALK, jump]}), told=told)
    assert "'jumps up and down', and no region does it" in planning.answers[1]["refused"]
    assert planning.plan.scenes[0].regions[0].motion == "jumps up and down"

    planning, _ = await planned(Script([outline], {"fox": [WALK] * 3}), told=told)
    (fox,) = planning.plan.scenes[0].regions
    assert (fox.motion, fox.caption) == ("jumps up and down", "a fox jumps up and down in the forest")
    assert "fox jumps up and down" in planning.answers[1]["repaired"]


async def test_who_is_named_must_be_shown_and_who_has_a_picture_is_put_there_at_last() -> None:
    told = story("A fox walks right in the forest, and a ghost flies up.", "ghost")
    outline = {"scenes": [{"sentences": [1], "place": "forest", "motions": ["walks right", "flies up"]}]}
    walk = {"entity": "fox", "motion": "walks right", "from": [4, 36, 40, 96], "to": [20, 36, 56, 96]}
    both = {"regions": [walk, {"entity": "ghost", "motion": "flies up", "from": [60, 4, 98, 96]}]}
    planning, _ = await planned(Script([outline], {"fox": [WALK, both]}), told=told)
    assert "names ghost, and no region shows them" in planning.answers[1]["refused"]
    assert [region.entity for region in planning.plan.scenes[0].regions] == ["fox", "ghost"]

    planning, _ = await planned(Script([outline], {"fox": [WALK] * 3}), told=told)
    fox, ghost = planning.plan.scenes[0].regions
    assert (ghost.entity, ghost.motion, ghost.caption) == ("ghost", "flies up", "a [v1] ghost flies up in the forest")
    assert len(ghost.boxes) == KEYFRAMES
    assert max(box.right for box in fox.boxes.values()) <= min(box.left for box in ghost.boxes.values())
    assert "ghost put beside the others" in planning.answers[1]["repaired"]

    told = story("A fox walks right in the forest by the lion.")
    planning, _ = await planned(Script([outline], {"fox": [WALK] * 3}), told=told)
    assert [region.entity for region in planning.plan.scenes[0].regions] == ["fox"]
    assert "left as it is" in planning.answers[1]["repaired"]


async def test_what_a_story_denies_may_be_missing() -> None:
    told = story("The fox never dances. It walks right in the forest, not in the city.")
    outline = {"scenes": [{"sentences": [1, 2], "place": "forest", "motions": ["walks right"]}]}
    planning, _ = await planned(Script([outline], {"fox": [WALK]}), told=told)
    assert len(planning.answers) == 2


async def test_sentences_are_put_in_order_when_the_model_does_not() -> None:
    scenes = [{"sentences": n, "place": "forest", "motions": []} for n in ([3, 1], [2], [1])]
    planning, _ = await planned(Script([{"scenes": scenes}] * 3, {"fox": [WALK], "dragon": [SPIN]}))
    assert [scene.narration for scene in planning.plan.scenes] == [TEXT[:46], TEXT[47:]]
    assert "in order" in planning.answers[0]["repaired"]


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ([[1], [3]], "no scene has sentence 2"),
        ([[1, 3], [2]], "in the order"),
        ([[1, 2, 3], [3]], "in the order"),
        ([[1, 2, 3, 4]], "in the order"),
    ],
)
async def test_no_sentence_is_lost_moved_or_told_twice(numbers, reason: str) -> None:
    wrong = {"scenes": [{"sentences": n, "place": "forest", "motions": []} for n in numbers]}
    planning, _ = await planned(Script([wrong, OUTLINE], {"fox": [WALK], "dragon": [SPIN]}))
    assert reason in planning.answers[0]["refused"]
    assert " ".join(scene.narration for scene in planning.plan.scenes) == TEXT


async def test_an_answer_that_stays_wrong_ends_the_planning() -> None:
    script = Script([OUTLINE], {"fox": ["no"] * 3, "dragon": [SPIN]})
    with pytest.raises(PlanningFailed, match=r"scene-1-forest.*3 attempts.*Invalid JSON") as failed:
        await planned(script)
    assert isinstance(failed.value, InputError)
    assert "\n" not in str(failed.value)


async def test_an_empty_story_is_refused() -> None:
    script = Script([], {})
    with pytest.raises(InputError, match="story: text: it is empty"):
        await planned(script, told=Story.model_construct(text=" \n", characters={}))
    assert script.asked == []


async def test_when_one_scene_fails_the_others_are_given_up() -> None:
    class Waits(Script):
        cancelled = False

        async def complete(self, messages, schema, seed, max_tokens, temperature=0.0, adapter=True) -> str:
            if "dragon" in messages[1]["content"].splitlines()[-1] and "regions" in schema["properties"]:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    self.cancelled = True
                    raise
            return await super().complete(messages, schema, seed, max_tokens, temperature)

    script = Waits([OUTLINE], {"fox": ["no"] * 3})
    with pytest.raises(PlanningFailed):
        await planned(script)
    await asyncio.sleep(0)
    assert script.cancelled


async def test_a_story_of_too_many_scenes_is_refused() -> None:
    told = story("A fox ran. " * 201)
    size = sentences_at_once(MINIATURE)
    ones = [{"sentences": [n], "place": "forest", "motions": []} for n in range(1, size + 1)]
    pieces = [{"scenes": ones}] * (201 // size) + [{"scenes": ones[: 201 % size]}]
    with pytest.raises(InputError, match="201 scenes, a film has at most 200"):
        await planned(Script(pieces, {}), told=told)


async def test_any_text_model_writes_captions_and_gets_token_phrases() -> None:
    regions = [
        {
            "entity": "The dragon",
            "motion": "is spinning",
            "caption": "a dragon is spinning on a beach",
            "from": [30, 30, 70, 98],
        },
        {"entity": "wave", "motion": "none", "caption": "a wave by the beach", "from": [0, 60, 30, 98]},
    ]
    answer = {"reason": "One dragon.", "background": "a wide beach at noon", "regions": regions}
    outline = {"scenes": [{"sentences": [1, 2, 3], "place": "A wide beach, at noon!", "motions": ["spins"]}]}
    unnamed = {**answer, "regions": [{**regions[0], "caption": "it is spinning on the beach"}]}
    script = Script([outline], {"dragon": [unnamed, answer]})
    planning, _ = await planned(script, ANY_WORDS, story(TEXT, "dragon"))
    scene = planning.plan.scenes[0]
    assert scene.id == "scene-1-a-wide-beach-at"
    assert scene.background == "a wide beach at noon"
    assert scene.regions[0].entity == "dragon"
    assert scene.regions[0].motion == "spins"
    assert scene.regions[0].caption == "a [v1] dragon spins on a beach"
    assert "the caption does not name '[v1] dragon'" in planning.answers[1]["refused"]


async def test_those_who_overlap_get_one_caption_from_a_model_that_reads_any_text() -> None:
    box = [10, 20, 60, 98]
    regions = [
        {"entity": who, "motion": "hugs", "caption": f"a {who} hugs somebody on the beach", "from": box}
        for who in ("cat", "dog")
    ]
    answer = {"reason": "Two.", "background": "a beach", "regions": regions}
    outline = {"scenes": [{"sentences": [1], "place": "a beach", "motions": ["hugs"]}]}
    planning, _ = await planned(Script([outline], {"cat": [answer] * 3}), ANY_WORDS, story("A cat and a dog hug."))
    captions = {region.caption for region in planning.plan.scenes[0].regions}
    assert captions == {"a cat hugs somebody on the beach and a dog hugs somebody on the beach"}
    assert "merged" in planning.answers[1]["repaired"]


async def test_a_character_keeps_its_name_in_all_scenes() -> None:
    def answer(name: str) -> dict:
        there = {"entity": name, "motion": "hops", "caption": f"a {name} hops on a beach", "from": [10, 20, 60, 98]}
        return {"reason": "One.", "background": "a beach", "regions": [there]}

    outline = {"scenes": [{"sentences": [n], "place": "a beach", "motions": ["hops"]} for n in (1, 2)]}
    script = Script([outline], {"mouse": [answer("mouse")], "Mouse": [answer("little mouse")]})
    planning, _ = await planned(script, ANY_WORDS, story("A mouse hopped. Mouse, the little one, hopped."))
    first, second = planning.plan.scenes
    assert second.regions == first.regions
    assert "'little mouse' is called 'mouse'" in planning.answers[-1]["repaired"]


async def test_a_topic_becomes_a_story_first() -> None:
    told = Story(topic="a fox's day")
    invented = {"sentences": ["The fox dances in the forest.", "The fox dances in the forest."]}
    better = {"sentences": ["The fox walks right in the forest.", "The dragon spins around on the beach."]}
    outline = {"scenes": [{"sentences": [n], "place": p, "motions": []} for n, p in ((1, "forest"), (2, "beach"))]}
    script = Script([invented, better, outline], {"fox": [WALK], "dragon": [SPIN]})
    told = told.model_copy(update={"characters": {"dragon": ("0" * 64,)}})
    planning, _ = await planned(script, told=told)
    assert [scene.narration for scene in planning.plan.scenes] == better["sentences"]
    assert "a sentence comes twice" in planning.answers[0]["refused"]
    assert [a["level"] for a in planning.answers] == ["topic", "topic", "story", "scene", "scene"]
    assert script.asked[0][0][1]["content"].endswith("Topic: a fox's day")
    assert script.without_adapter == 2

    dance = {"regions": [{"entity": "fox", "motion": "dances", "from": [30, 30, 70, 98]}]}
    script = Script([invented] * 3 + [{"scenes": outline["scenes"][:1]}], {"fox": [dance]})
    planning, _ = await planned(script, told=told)
    assert [scene.narration for scene in planning.plan.scenes] == ["The fox dances in the forest."]
    assert planning.answers[0]["repaired"].endswith("told once")


def test_what_is_invented_for_a_model_of_few_words_can_be_drawn() -> None:
    pattern = topic_schema(MINIATURE.words, ["old dragon"])["properties"]["sentences"]["items"]["pattern"]
    assert re.match(pattern, "The old dragon jumps up and down under the sea.")
    assert not re.match(pattern, "The unicorn jumps up and down under the sea.")
    assert "pattern" not in topic_schema(None, [])["properties"]["sentences"]["items"]


@pytest.mark.parametrize(
    "text", ["Bonjour", "Ein Hund läuft durch den Wald.", "A dragon sleeps.", "森の中で踊る。", "7"]
)
async def test_a_story_of_nobody_who_can_be_drawn_is_refused_before_any_question(text: str) -> None:
    script = Script([], {})
    with pytest.raises(InputError, match=r"names nobody whom miniature can draw; tell it in English, of fox, robot"):
        await planned(script, told=story(text))
    assert script.asked == []


async def test_a_long_story_is_divided_in_pieces() -> None:
    size = sentences_at_once(MINIATURE)
    sentences = [f"The fox walked {n} steps through the forest." for n in range(size + 4)]
    pieces = [
        {"scenes": [{"sentences": list(range(1, size + 1)), "place": "forest", "motions": ["walks right"]}]},
        {"scenes": [{"sentences": [1, 2, 3, 4], "place": "forest", "motions": ["walks right"]}]},
    ]
    script = Script(pieces, {"fox": [WALK, WALK]})
    planning, _ = await planned(script, MINIATURE, story(" ".join(sentences)))
    assert "Place: forest\n" in script.asked[1][0][1]["content"]  # the second piece knows where the first ended
    assert " ".join(scene.narration for scene in planning.plan.scenes) == " ".join(sentences)
    assert [scene.id for scene in planning.plan.scenes] == ["scene-1-forest", "scene-2-forest"]
