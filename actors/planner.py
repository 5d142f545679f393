"""The planner: hosts the language model that turns stories into plans, and ends when there is nothing to plan."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any, Protocol

import ray

from actors.orphans import end_with_node
from engine.errors import InputError
from engine.models import Bundle, PlannerModel, load_bundle
from engine.plan import dump_plan
from engine.planner import plan_story
from engine.planner_model import planner_of
from engine.story import Story

if TYPE_CHECKING:
    from actors.openai_chat import OpenAIChat
    from engine.chat import VllmChat


class PlanTask(Protocol):
    """What the planner reads of a job. `model` names the bundle, `planner` a language model instead of the bundle's."""

    @property
    def story(self) -> Story: ...
    @property
    def seed(self) -> int: ...
    @property
    def model(self) -> str: ...
    @property
    def planner(self) -> PlannerModel | None: ...


class Delivery(Protocol):
    """How the planner reports and hands over; see actors/worker.py."""

    def report(self, done: int, total: int) -> None: ...
    def put(self, files: dict[str, bytes], notes: dict[str, Any]) -> None: ...


@ray.remote(num_cpus=0, max_restarts=0)
class Planner:
    """One language model at a time, loaded when first needed; stories that come together are planned together.

    vLLM runs in child processes of this one. `close` ends them; should this process be killed, Ray ends its process
    group (RAY_process_group_cleanup_enabled, cluster/local.py), and so does the guard of engine/chat.py without Ray.
    """

    def __init__(self) -> None:
        end_with_node()
        self.chat: VllmChat | None = None
        self.holds: tuple[str, PlannerModel | None] = ("", None)  # the bundle's name, its language model
        self.loading = asyncio.Lock()
        self.planning = 0  # stories

    async def ready(self, model: str = "miniature") -> int:
        """The process id, once the bundle's language model is loaded."""
        await self._resident(load_bundle(model))
        return os.getpid()

    async def plan(self, job: PlanTask, delivery: Delivery) -> None:
        """Plans a story and hands over plan.yaml and answers.json, with notes on how they came about. Raises InputError
        for a story that cannot be planned."""
        began = time.perf_counter()
        bundle = load_bundle(job.model)
        if job.planner is not None:
            bundle = bundle.model_copy(update={"planner": job.planner})
        chat = await self._resident(bundle)
        loaded = time.perf_counter()
        self.planning += 1
        try:
            planning = await plan_story(job.story, bundle, chat, job.seed, delivery.report)
        finally:
            self.planning -= 1
        seconds = {"loading": loaded - began, "planning": time.perf_counter() - loaded}
        notes = {
            "planner": chat.settings.model, "url": chat.settings.url, "adapter": chat.settings.adapter,
            "seed": job.seed,
            "attempts": len(planning.answers), "refused": sum(a["refused"] is not None for a in planning.answers),
            "seconds": {part: round(s, 2) for part, s in seconds.items()},
        }  # fmt: skip
        answers = json.dumps(planning.answers, indent=1, ensure_ascii=False)
        files = {"plan.yaml": dump_plan(planning.plan).encode(), "answers.json": answers.encode()}
        await asyncio.to_thread(delivery.put, files, notes)

    async def close(self) -> None:
        """Ends the language model's processes."""
        async with self.loading:
            if self.chat is not None:
                self.chat.close()
                self.chat, self.holds = None, ("", None)

    async def _resident(self, bundle: Bundle) -> VllmChat | OpenAIChat:
        """The bundle's language model, loaded unless it is the one already here, alive."""
        wanted = planner_of(bundle)
        if wanted.url is not None:
            from actors.openai_chat import OpenAIChat

            return OpenAIChat(wanted)  # nothing is loaded
        async with self.loading:
            if self.chat is None or self.holds != (bundle.name, wanted) or self.chat.broken:
                if self.chat is not None:
                    if self.planning and not self.chat.broken:
                        raise InputError(
                            f"--model {bundle.name}: the planner is busy with a story for {self.holds[0]}; ask again"
                        )
                    self.chat.close()
                    self.chat = None
                from engine.chat import VllmChat

                self.chat, self.holds = VllmChat(bundle), (bundle.name, wanted)
            return self.chat
