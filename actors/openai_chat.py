"""A language model behind any OpenAI-compatible endpoint, as the planner's chat model."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import openai

from engine.chat import Message
from engine.errors import InputError
from engine.models import PlannerModel

AT_ONCE = 16  # requests; more wait here
TIMEOUT_S = 120.0  # of one answer
RETRIES = 3  # of what may pass: no connection, too many requests, a server's fault; by the client, with growing pauses


class OpenAIChat:
    """Asks `settings.url` for answers bound to a JSON schema. The key comes from an environment variable; it is sent to
    the endpoint and never written anywhere."""

    broken = False

    def __init__(self, settings: PlannerModel) -> None:
        assert settings.url is not None
        self.settings = settings
        key = os.environ.get(settings.key_variable) or "none"  # servers of one's own ask for none
        self.client = openai.AsyncOpenAI(base_url=settings.url, api_key=key, timeout=TIMEOUT_S, max_retries=RETRIES)
        self.turn = asyncio.Semaphore(AT_ONCE)
        self.bound = True  # until the endpoint says that it knows no schemas

    async def complete(
        self, messages: list[Message], schema: dict[str, Any], seed: int, max_tokens: int, temperature: float = 0.0,
        adapter: bool = True,
    ) -> str:  # fmt: skip
        """The answer's text. Raises InputError, naming the endpoint, when there is none."""
        form: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        async with self.turn:
            try:
                try:
                    return await self._ask(messages, seed, max_tokens, temperature, form if self.bound else None)
                except openai.BadRequestError:
                    if not self.bound:
                        raise
                    text = await self._ask(messages, seed, max_tokens, temperature, None)
                    self.bound = False
                    return text
            except openai.APIConnectionError as error:  # timeouts are such, too
                raise self._refused(f"it cannot be reached ({type(error).__name__})") from None
            except openai.AuthenticationError:
                raise self._refused(f"it does not take the key in ${self.settings.key_variable}") from None
            except openai.NotFoundError:
                raise self._refused(f"it has no model {self.settings.model!r}; name one with --planner-model") from None
            except openai.APIStatusError as error:
                raise self._refused(f"it answered {error.status_code}") from None

    async def _ask(
        self, messages: list[Message], seed: int, max_tokens: int, temperature: float, form: dict[str, Any] | None
    ) -> str:
        asked: dict[str, Any] = {"model": self.settings.model, "messages": messages, "seed": seed}
        asked |= {"max_tokens": max_tokens, "temperature": temperature, **({"response_format": form} if form else {})}
        answer = await self.client.chat.completions.create(**asked)
        return answer.choices[0].message.content or "" if answer.choices else ""

    def _refused(self, why: str) -> InputError:
        return InputError(f"--planner-url {self.settings.url}: {why}")

    def close(self) -> None:
        """Nothing is held but connections, which end with this process."""
