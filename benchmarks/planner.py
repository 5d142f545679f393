"""How well the miniature's planner understands sentences that its grammar never made.

    python -m benchmarks.planner [--model miniature] [--limit N]

Each sentence of SENTENCES, written by hand, is planned as a story of its own. Counted are: sentences whose place is
right, sentences whose cast is right (all of them and nobody else), and characters whose motion is right. STORIES are
whole stories, counted apart: what is told of a sentence is compared with the scene that holds it. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

from engine.chat import ChatModel
from engine.models import Bundle, load_bundle
from engine.plan import Plan, Scene
from engine.planner import PlanningFailed, plan_story
from engine.story import Story

# sentence: (stage, {character: motion})
SENTENCES: dict[str, tuple[str, dict[str, str]]] = {
    "A ladybug came plummeting onto the dunes.": ("desert", {"ladybug": "falls down"}),
    "The wizard began to rotate like a carousel amid the skyscrapers.": ("city", {"wizard": "spins around"}),
    "Across the frozen lake dashes a penguin, heading for the right-hand side.": ("snow", {"penguin": "walks right"}),
    "On the reef an octopus boogied as if nobody could see.": ("sea", {"octopus": "dances"}),
    "The lion paced off to the left through the pines.": ("forest", {"lion": "walks left"}),
    "Beneath a starry sky the owl ascended, and a rabbit stood there without moving.": (
        "night", {"owl": "flies up", "rabbit": "stands still"}),
    "The princess could not stop jumping for happiness among the poppies.": (
        "meadow", {"princess": "jumps up and down"}),
    "An elephant expanded until it filled the whole avenue.": ("city", {"elephant": "grows bigger"}),
    "The frog dwindled to the size of an ant on the sandy shore.": ("beach", {"frog": "shrinks"}),
    "In the woodland a pig ran round and round, and a fox was having a rest.": (
        "forest", {"pig": "runs in circles", "fox": "stands still"}),
    "A fish zigzagged through the seaweed on the ocean floor.": ("sea", {"fish": "zigzags across"}),
    "The chick bounced like a rubber ball from one end of the snowdrift to the other.": (
        "snow", {"chick": "bounces across"}),
    "From high above the cactuses the owl swooped low and rose again.": ("desert", {"owl": "swoops down"}),
    "The panda shook its hips to a tune while the robot marched away to the left by the sea.": (
        "beach", {"panda": "dances", "robot": "walks left"}),
    "At midnight the robot lifted off like a rocket.": ("night", {"robot": "flies up"}),
    "The fox and the pig skipped merrily in place between the buttercups.": (
        "meadow", {"fox": "jumps up and down", "pig": "jumps up and down"}),
}  # fmt: skip

# Sentence by sentence: a new scene's (stage, cast), or None where the scene before goes on.
STORIES: list[list[tuple[str, tuple[str, dict[str, str]] | None]]] = [
    [
        ("Early in the morning a fox set out through the forest.", ("forest", {"fox": "walks right"})),
        ("In the city a robot danced all by itself.", ("city", {"robot": "dances"})),
        ("They met in a meadow.", ("meadow", {"fox": "walks right", "robot": "walks left"})),
        ("On the beach the fox jumped for joy, and the robot danced.",
         ("beach", {"fox": "jumps up and down", "robot": "dances"})),
        ("At night an owl rose into the sky, and the fox watched it go.",
         ("night", {"owl": "flies up", "fox": "stands still"})),
        ("Through the snow a penguin walked home.", ("snow", {"penguin": "walks left"})),
    ],
    [
        ("A princess waited under the palm trees at the seaside.", ("beach", {"princess": "stands still"})),
        ("It was a bright morning.", None),
        ("Then the wizard walked through the streets of the city and whirled around.",
         ("city", {"wizard": "spins around"})),
        ("He grew as big as a tower.", ("city", {"wizard": "grows bigger"})),
        ("Far out in the desert a lion tumbled from the sky.", ("desert", {"lion": "falls down"})),
        ("At the bottom of the sea a fish darted this way and that.", ("sea", {"fish": "zigzags across"})),
    ],
]  # fmt: skip


class Score:
    """Right answers out of all, for places, casts and motions; and where something was wrong."""

    def __init__(self) -> None:
        self.right = {"places": 0, "casts": 0, "motions": 0}
        self.of = {"places": 0, "casts": 0, "motions": 0}
        self.wrong: list[str] = []

    def add(self, told: str, scene: Scene | None, stage: str, cast: dict[str, str]) -> None:
        """Compares a scene, None when there is none, with what was told."""
        background = scene.background.split() if scene else []
        found = [(r.entity, r.motion) for r in scene.regions] if scene else []
        right = {
            "places": int(stage in background),
            "casts": int({entity for entity, _ in found} == set(cast)),
            "motions": sum(pair in found for pair in cast.items()),
        }
        for key, most in (("places", 1), ("casts", 1), ("motions", len(cast))):
            self.right[key] += right[key]
            self.of[key] += most
            if right[key] < most:
                self.wrong.append(f"{key}: {told} -> {' '.join(background)}: {found}")

    def result(self) -> dict[str, str]:
        return {key: f"{self.right[key]}/{self.of[key]}" for key in self.right}


def scene_with(plan: Plan | None, sentence: str) -> Scene | None:
    return next((scene for scene in plan.scenes if sentence in scene.narration), None) if plan else None


async def _plan(text: str, bundle: Bundle, chat: ChatModel) -> tuple[Plan | None, int]:
    """The plan, None when there is none, and how many answers were refused."""
    try:
        planning = await plan_story(Story(text=text), bundle, chat, 0, lambda done, total: None)
    except PlanningFailed as error:
        print(error)
        return None, 3
    return planning.plan, sum(answer["refused"] is not None for answer in planning.answers)


async def evaluate(bundle: Bundle, chat: ChatModel, limit: int | None = None) -> dict:
    """All sentences at once, then all stories."""
    single, whole = Score(), Score()
    began = time.perf_counter()
    some = list(SENTENCES.items())[:limit]
    made = await asyncio.gather(*(_plan(sentence, bundle, chat) for sentence, _ in some))
    for (sentence, (stage, cast)), (plan, _) in zip(some, made, strict=True):
        single.add(sentence, plan.scenes[0] if plan and len(plan.scenes) == 1 else None, stage, cast)
    seconds = time.perf_counter() - began
    told = await asyncio.gather(*(_plan(" ".join(s for s, _ in story), bundle, chat) for story in STORIES[:limit]))
    for story, (plan, _) in zip(STORIES, told, strict=False):
        for sentence, truth in story:
            if truth is not None:
                whole.add(sentence, scene_with(plan, sentence), *truth)
    return {
        "sentences": single.result(), "stories": whole.result(),
        "refused": sum(refused for _, refused in (*made, *told)), "seconds_for_sentences": round(seconds, 1),
        "wrong": [*single.wrong, *whole.wrong],
    }  # fmt: skip


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature", help="a bundle with a planner")
    parser.add_argument("--limit", type=int, help="so many sentences and stories at most")
    options = parser.parse_args()
    from engine.chat import VllmChat

    began = time.perf_counter()
    bundle = load_bundle(options.model)
    chat = VllmChat(bundle)
    loading = time.perf_counter() - began
    try:
        result = await evaluate(bundle, chat, options.limit)
    finally:
        chat.close()
    for line in result.pop("wrong"):
        print(line)
    print(json.dumps({**result, "loading_seconds": round(loading, 1)}))


if __name__ == "__main__":
    asyncio.run(main())
