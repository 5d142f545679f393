"""One scene over several real processes is the scene of one worker, and a member that fails is noticed."""

from __future__ import annotations

import copy
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig

from engine.adapters import region_loras
from engine.errors import InputError
from engine.groups import free_address
from engine.miniature.settings import LATENT_CHANNELS
from engine.models import load_bundle
from engine.parallel import ALONE, SequenceParallel, parallel_scene
from engine.plan import Box, Region, Scene
from engine.regions import region_map
from engine.scene import DenoisingState, denoise
from engine.settings import ExecutionPlan, RenderSettings, check_degrees
from engine.video_model import VideoModel, prepare_transformer
from tests.engine.small import tiny_transformer

FOX = Region(
    entity="fox", motion="walks right", caption="a fox walks right in the forest",
    boxes={k: Box(k / 12, 0.2, k / 12 + 0.5, 0.9) for k in range(1, 7)},
)  # fmt: skip
OWL = Region(  # overlaps the fox, and is there in three keyframes only
    entity="owl",
    motion="jumps",
    caption="an owl jumps in the forest",
    boxes={k: Box(0.5, 0, 1, 0.6) for k in (2, 3, 4)},
)
SCENE = Scene(id="s", background="a green forest", regions=(FOX, OWL))
SETTINGS = RenderSettings(num_inference_steps=3, guidance_scale=4)
BOUND = 1e-4  # of max|a-b| / max|a| between execution plans (float32)


@cache
def model_of(kind: str) -> VideoModel:
    """`miniature`: nine frames of it, as decoding takes long. `odd`: a random transformer on 455 tokens. `rotary`: the
    same with CogVideoX-5B's positions. `lora`: `odd` with two random adapters."""
    if kind == "miniature":
        return VideoModel(load_bundle("miniature").model_copy(update={"num_frames": 9}))
    model = copy.copy(model_of("miniature"))
    model.bundle = model.bundle.model_copy(update={"height": 56, "width": 104, "num_frames": 17})
    sizes = {
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "text_embed_dim": 128,
        "max_text_seq_length": 32,
    }
    sizes |= {"sample_height": 14, "sample_width": 26, "sample_frames": 17, "num_attention_heads": 6}
    model.transformer = prepare_transformer(tiny_transformer(kind == "rotary", layers=3, **sizes))
    assert model.grid.size == 455  # 2, 3 and 4 do not divide it
    if kind == "lora":
        for seed, region in enumerate(SCENE.regions):
            _add_lora(model.transformer, region.entity, seed)
    return model


def _add_lora(transformer: torch.nn.Module, name: str, seed: int) -> None:
    targets = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]
    transformer.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets), adapter_name=name)
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in transformer.named_parameters():
        if f".{name}." in key:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@dataclass(frozen=True)
class Job:
    """One scene by one member. `misbehave`: what it does after its first step, if anything."""

    kind: str
    guidance: int = 1
    ulysses: int = 1
    rank: int = 0
    address: str = ""
    timeout: float = 60
    misbehave: str = ""
    start: int = 0

    def run(self) -> dict[str, Any]:
        model, lengths = model_of(self.kind), set()
        watch = model.transformer.transformer_blocks[-1].ff.register_forward_pre_hook(
            lambda module, args: lengths.add(args[0].shape[:2])
        )
        execution = ExecutionPlan(
            device="cpu", dtype="float32", threads=1, guidance_degree=self.guidance, ulysses_degree=self.ulysses
        )
        start = DenoisingState(self.start, torch.zeros(1, *model.latent_shape), None) if self.start else None
        with parallel_scene(model, execution, self.rank, self.address, timedelta(seconds=self.timeout)) as parallel:
            with self.loras(model, parallel.sequence):
                for state in denoise(model, SCENE, 1, SETTINGS, start, parallel):
                    if state.step == 1 and self.misbehave == "die":
                        os.kill(os.getpid(), signal.SIGKILL)
                    if state.step == 1 and self.misbehave == "hang":
                        time.sleep(2 * self.timeout)
            seen = {"alone": parallel == ALONE, "group": dist.is_initialized(), "latents": state.latents.numpy()}
        watch.remove()
        seen["work"] = [tuple(length) for length in lengths]
        if self.kind == "miniature" and self.rank == 0 and self.guidance == self.ulysses:
            seen["frames"] = model.decode(state.latents).numpy()
        assert not dist.is_initialized() and not model.transformer.proj_out._forward_hooks
        return seen

    def loras(self, model: VideoModel, sequence: SequenceParallel | None):
        if self.kind != "lora":
            return nullcontext()
        regions = region_map(SCENE, model.grid, model.bundle.text_tokens)
        masks = {r.entity: regions.token_mask(lambda other, r=r: other.entity == r.entity) for r in SCENE.regions}
        return region_loras(model.transformer, masks, sequence)


def _serve(connection) -> None:
    torch.set_num_threads(1)
    while job := connection.recv():
        try:
            connection.send(job.run())
        except Exception as error:
            connection.send(error if isinstance(error, (ValueError, RuntimeError)) else RuntimeError(repr(error)))


class Processes:
    """Processes that stay from job to job; one that died is made anew at the next."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__, "deepspeed.comm"])  # imported once, for all of them
        self.there: dict[int, tuple[Any, Any]] = {}

    def _connection(self, rank: int):
        if rank not in self.there:
            ours, theirs = self.context.Pipe()
            process = self.context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.there[rank] = process, ours
        return self.there[rank][1]

    def run(self, jobs: list[Job]) -> list[Any]:
        """What each gave: results, errors, or None of one that died."""
        connections = [self._connection(rank) for rank in range(len(jobs))]
        for connection, job in zip(connections, jobs, strict=True):
            connection.send(job)
        results: list[Any] = []
        for rank, connection in enumerate(connections):
            try:
                results.append(connection.recv())
            except (EOFError, ConnectionResetError):
                self.there.pop(rank)
                results.append(None)
        return results

    def scene(self, kind: str, guidance: int = 1, ulysses: int = 1, changes: dict[int, dict] | None = None, **common):
        """A scene by guidance * ulysses members; `changes`: what is otherwise with one of them."""
        address = free_address()
        jobs = [Job(kind, guidance, ulysses, rank, address, **common) for rank in range(guidance * ulysses)]
        return self.run([replace(job, **(changes or {}).get(job.rank, {})) for job in jobs])

    @cache  # noqa: B019 (as long as the processes)
    def alone(self, kind: str) -> dict[str, Any]:
        return self.scene(kind)[0]

    def end(self) -> None:
        for process, connection in self.there.values():
            connection.send(None)
            process.join()


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes()
    yield pool
    pool.end()


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(a).max())


@pytest.mark.parametrize(
    ("kind", "guidance", "ulysses"),
    [
        ("miniature", 2, 1), ("miniature", 2, 2), ("miniature", 1, 3),
        ("odd", 2, 2), ("odd", 1, 3), ("rotary", 2, 2), ("rotary", 1, 3), ("lora", 2, 2), ("lora", 1, 3),
    ],
)  # fmt: skip
def test_several_workers_make_the_scene_of_one(processes, kind: str, guidance: int, ulysses: int) -> None:
    alone, members = processes.alone(kind), processes.scene(kind, guidance, ulysses)
    assert alone["alone"] and not alone["group"] and not members[0]["alone"] and members[0]["group"]
    tokens, text = 3 * 8 * 14 if kind == "miniature" else 5 * 7 * 13, 3 * 32
    assert alone["work"] == [(2, text + tokens)]
    assert all(member["work"] == [(2 / guidance, text + math.ceil(tokens / ulysses))] for member in members)
    assert _difference(alone["latents"], members[0]["latents"]) <= BOUND
    for other in members[1:]:
        assert np.array_equal(members[0]["latents"], other["latents"])
    if "frames" in members[0]:
        assert np.abs(alone["frames"].astype(int) - members[0]["frames"]).max() <= 1


def test_what_is_compared_differs(processes) -> None:
    """The adapters and the rotary table have effects far above the bound, else the comparisons would say nothing."""
    plain = processes.alone("odd")["latents"]
    assert _difference(plain, processes.alone("lora")["latents"]) > 100 * BOUND
    assert _difference(plain, processes.alone("rotary")["latents"]) > 100 * BOUND


def test_one_two_one_two_in_the_same_processes(processes) -> None:
    one, two, again, two_again = (processes.scene("odd", 1, degree)[0]["latents"] for degree in (1, 2, 1, 2))
    assert np.array_equal(one, again) and np.array_equal(two, two_again)
    assert _difference(one, two) <= BOUND


def test_a_member_that_hangs_is_noticed_by_all_and_they_work_again(processes) -> None:
    began = time.perf_counter()
    # with torch's default of 30 minutes in the parts of the group they would wait, and go on when it wakes up
    results = processes.scene("odd", 2, 2, {3: {"misbehave": "hang"}}, timeout=3)
    assert all(isinstance(result, RuntimeError) for result in results), results
    assert time.perf_counter() - began < 30
    assert _difference(processes.alone("odd")["latents"], processes.scene("odd", 2, 2)[0]["latents"]) <= BOUND


def test_a_member_that_dies_is_noticed(processes) -> None:
    began = time.perf_counter()
    survivor, dead = processes.scene("odd", 2, 1, {1: {"misbehave": "die"}}, timeout=20)
    assert isinstance(survivor, RuntimeError) and dead is None
    assert time.perf_counter() - began < 20
    assert _difference(processes.alone("odd")["latents"], processes.scene("odd", 2)[0]["latents"]) <= BOUND


def test_a_member_that_never_comes_is_noticed(processes) -> None:
    alone = processes.run([Job("odd", 2, 1, 0, free_address(), timeout=1)])
    assert isinstance(alone[0], RuntimeError)
    assert _difference(processes.alone("odd")["latents"], processes.scene("odd", 2)[0]["latents"]) <= BOUND


def test_members_begin_at_the_same_step(processes) -> None:
    results = processes.scene("odd", 1, 2, {1: {"start": 2}})
    assert all("[0, 2]" in str(result) and isinstance(result, ValueError) for result in results)


def test_slices_hold_every_token_once_and_masks_are_0_on_padding() -> None:
    x, mask = torch.randn(2, 5, 3), torch.ones(4 + 5, 1)
    parts = [SequenceParallel(5, 4, rank, None) for rank in range(4)]
    assert [part.share for part in parts] == [2] * 4  # the third holds one token, the last nothing but padding
    together = torch.cat([part.my_tokens(x) for part in parts], 1)
    assert torch.equal(together[:, :5], x) and not together[:, 5:].any()
    assert [part.my_mask(mask)[4:, 0].tolist() for part in parts] == [[1, 1], [1, 1], [1, 0], [0, 0]]
    assert all(part.my_mask(mask)[:4].all() for part in parts)


def _execution(guidance: int, ulysses: int) -> ExecutionPlan:
    return ExecutionPlan(device="cpu", dtype="float32", threads=1, guidance_degree=guidance, ulysses_degree=ulysses)


def test_degrees_that_cannot_be_are_refused_with_the_numbers() -> None:
    for degree in (1, 2, 3, 6):
        check_degrees(_execution(2, degree), 6, 455, 12)
    with pytest.raises(InputError, match=r"4 workers cannot share 6 attention heads \(455 .* one of 1, 2, 3, 6$"):
        check_degrees(_execution(1, 4), 6, 455)
    with pytest.raises(InputError, match=r"guidance_degree 2 x ulysses_degree 3 = 6 workers, but there are 4"):
        check_degrees(_execution(2, 3), 6, 455, 4)


def test_a_plan_for_one_is_written_as_it_always_was() -> None:
    assert _execution(1, 1).model_dump() == {"device": "cpu", "dtype": "float32", "threads": 1}
    both = _execution(2, 3)
    assert ExecutionPlan(**both.model_dump()) == both and both.world_size == 6
