"""Language models that answer in JSON: what the planner asks of one, and vLLM as one."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from typing import Any, Protocol

import psutil

from engine.errors import InputError
from engine.models import Bundle, PlannerModel, multiplies_bfloat16
from engine.planner_model import planner_of, tuned

Message = dict[str, str]  # role, content

CPU_CACHE_GB = 1  # of keys and values; vLLM would otherwise take most of the machine's memory
LEAST_ANSWER = 64  # tokens that must be left for an answer

# Waits for the end of its input, which comes when its parent has ended, however that was. A pidfd never means another
# process that got the same number later.
GUARD = """
import contextlib, os, signal, sys
children = []
for pid in sys.argv[1:]:
    with contextlib.suppress(ProcessLookupError):
        children.append(os.pidfd_open(int(pid)))
print(flush=True)
sys.stdin.read()
for child in children:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(child, signal.SIGKILL)
"""


class ChatModel(Protocol):
    """Anything that answers a conversation with JSON of a given schema."""

    async def complete(
        self, messages: list[Message], schema: dict[str, Any], seed: int, max_tokens: int, temperature: float = 0.0,
        adapter: bool = True,
    ) -> str:  # fmt: skip
        """The answer's text. Without its `adapter` a model is as it was before it was tuned to plans."""
        ...


class VllmChat:
    """A bundle's planner model, with its adapter, in vLLM. Requests made at the same time are batched."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        """Loads the model: 20 s on two cores. `threads` of a CPU: by default as many as there are idle cores, since
        threads that wait for each other at every operation are slower than one when other work takes turns with them.
        """
        self.settings = planner_of(bundle)
        model, untuned = tuned(bundle)
        # vLLM's own processes read these when they start. Its binding to cores would shut out a machine's other work.
        os.environ["OMP_NUM_THREADS"] = str(threads or idle_cores())
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_CACHE_GB))
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm import SamplingParams
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import StructuredOutputsParams
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.executor.uniproc_executor import UniProcExecutor

        self._sampling, self._structured = SamplingParams, StructuredOutputsParams
        mine = psutil.Process()
        before = set(mine.children(recursive=True))
        self.engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=model, dtype=dtype_of(self.settings), max_model_len=self.settings.max_model_len,
                enforce_eager=True, enable_lora=untuned is not None, max_lora_rank=16, disable_log_stats=True,
                # in the engine's own process: a CPU's default waits for its worker by spinning, on a core of its own
                distributed_executor_backend=UniProcExecutor,
                structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
            )
        )  # fmt: skip
        self.guard = end_with_me([child.pid for child in set(mine.children(recursive=True)) - before])
        self.untuned = LoRARequest("untuned", 1, untuned) if untuned else None
        self.tokenizer = self.engine.get_tokenizer()

    async def complete(
        self, messages: list[Message], schema: dict[str, Any], seed: int, max_tokens: int, temperature: float = 0.0,
        adapter: bool = True,
    ) -> str:  # fmt: skip
        """The answer's text; cut off after `max_tokens`. Raises InputError for a question that fills the context."""
        prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = self.tokenizer(prompt, add_special_tokens=False).input_ids
        room = self.settings.max_model_len - len(tokens)
        if room < LEAST_ANSWER:
            raise InputError(
                f"story: a part of it makes a question of {len(tokens)} tokens, but the planner reads "
                f"{self.settings.max_model_len} with its answer; write shorter sentences"
            )
        sampling = self._sampling(
            temperature=temperature, seed=seed, max_tokens=min(max_tokens, room),
            structured_outputs=self._structured(json=schema, disable_any_whitespace=True),
        )  # fmt: skip
        text = ""
        request = {"prompt_token_ids": tokens}
        lora = None if adapter else self.untuned
        async for output in self.engine.generate(request, sampling, uuid.uuid4().hex, lora_request=lora):
            text = output.outputs[0].text
        return text

    @property
    def broken(self) -> bool:
        """Whether vLLM's processes have died; a new one must be made then."""
        return bool(self.engine.errored)

    def close(self) -> None:
        """Ends vLLM's processes."""
        self.engine.shutdown()
        del self.engine  # not when Python ends: its destructor needs modules that are gone by then
        self.guard.communicate()


def idle_cores() -> int:
    """CPU cores that nobody uses, at least 1: what was idle in the last minute (others may be starting now, for a
    moment, as this is) or is now (others may just have ended)."""
    cores = len(os.sched_getaffinity(0))
    now = psutil.cpu_percent(interval=0.5) / 100 * (os.cpu_count() or 1)
    return max(1, cores - round(min(now, os.getloadavg()[0])))


def dtype_of(settings: PlannerModel) -> str:
    """The planner's dtype: what its bundle names, else bfloat16, and float32 on a CPU that does not multiply that."""
    if settings.dtype:
        return settings.dtype
    import torch

    return "bfloat16" if torch.cuda.is_available() or multiplies_bfloat16() else "float32"


def end_with_me(pids: list[int]) -> subprocess.Popen:
    """A small process that ends these when this one has ended, even by SIGKILL; vLLM's would go on for ever. It ends
    when its input is closed. Linux."""
    command = [sys.executable, "-S", "-c", GUARD, *map(str, pids)]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert guard.stdout is not None
    guard.stdout.readline()  # now it holds them
    return guard
