"""One scene: conditions -> latents -> frames. Our own denoising loop, so that any step can be the last or the first.

What comes out is a function of the scene, the seed, the settings and the execution plan (dtype, threads, kind of
device, degrees of parallelism): all noise is drawn from (seed, scene id, step), on the CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import CogVideoXDPMScheduler, FirstBlockCacheConfig

from engine.parallel import ALONE, Parallel
from engine.plan import Scene
from engine.regions import RegionMap, region_map
from engine.settings import RenderSettings
from engine.unfinished import pack, unpack
from engine.video_model import VideoModel


@dataclass(frozen=True)
class DenoisingState:
    """Where the loop stands after `step` steps: latents and the last x0 prediction, (1, frames, channels, h, w)."""

    step: int
    latents: torch.Tensor
    old_pred_original_sample: torch.Tensor | None


def save_state(state: DenoisingState) -> bytes:
    """The state as bytes, exactly."""
    tensors = {"latents": state.latents}
    if state.old_pred_original_sample is not None:
        tensors["old"] = state.old_pred_original_sample
    return pack(tensors, {"step": state.step})


def load_state(data: bytes | None, device: torch.device) -> DenoisingState | None:
    """What `save_state` kept; None when there is nothing to go on from."""
    found = unpack(data)
    if found is None:
        return None
    tensors, about = found
    old = tensors.get("old")
    return DenoisingState(about["step"], tensors["latents"].to(device), None if old is None else old.to(device))


def noise_generator(seed: int, scene_id: str, step: int) -> torch.Generator:
    """The source of a step's noise (step -1: the initial latents)."""
    digest = hashlib.sha256(f"{seed}/{scene_id}/{step}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7]))


def denoise(
    model: VideoModel,
    scene: Scene,
    seed: int,
    settings: RenderSettings,
    start: DenoisingState | None = None,
    parallel: Parallel = ALONE,
) -> Iterator[DenoisingState]:
    """Yields the state after every step; the last holds the scene's latents. `start` goes on from an earlier one.

    With `parallel` (from `parallel_scene`) every member calls it with the same arguments and yields the same states.
    With a step cache the scene always starts anew: what the cache holds is no part of the state.
    """
    if settings.cache is not None:
        start = None
    scheduler = model.new_scheduler(settings.num_inference_steps)
    regions = region_map(scene, model.grid, model.bundle.text_tokens).to(model.device)
    text = parallel.my_branches(guidance_text(model, regions, settings))
    rotary, shape = model.rotary(), (1, *model.latent_shape)
    if start is None:
        latents = torch.randn(shape, generator=noise_generator(seed, scene.id, -1)).to(model.device, model.dtype)
        start = DenoisingState(0, latents * scheduler.init_noise_sigma, None)
    state = start
    parallel.check_start(torch.tensor(state.step, device=model.device))
    with step_cache(model, settings.cache):
        for step in range(start.step, settings.num_inference_steps):
            with torch.no_grad():
                prediction = guided_prediction(
                    model, state.latents, text, regions, scheduler.timesteps[step], settings, rotary, parallel
                )
                state = advance(scheduler, prediction, state, noise_generator(seed, scene.id, step))
            yield state


@contextmanager
def step_cache(model: VideoModel, threshold: float | None) -> Iterator[None]:
    """Within the block steps in which the first block's output hardly changes reuse what the other blocks made before
    (diffusers' FirstBlockCache). None: every step is computed."""
    if threshold is None:
        yield
        return
    model.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    try:
        with model.transformer.cache_context("both branches"):
            yield
    finally:
        model.transformer.disable_cache()


def guidance_text(model: VideoModel, regions: RegionMap, settings: RenderSettings) -> torch.Tensor:
    """Text of both branches, (2, text length, width): each condition has its own negative beside it."""
    negative, *positive = model.encode_texts([settings.negative_prompt, *regions.captions])
    return torch.cat([negative.repeat(1, len(positive), 1), torch.cat(positive, 1)])


def guided_prediction(
    model: VideoModel,
    latents: torch.Tensor,
    text: torch.Tensor,
    regions: RegionMap,
    timestep: torch.Tensor,
    settings: RenderSettings,
    rotary: tuple[torch.Tensor, torch.Tensor] | None,
    parallel: Parallel = ALONE,
) -> torch.Tensor:
    """The model's output with classifier-free guidance, in float32; the same regions hold in both branches.

    `text` has a row for each branch that is this worker's: (2 or 1, text length, width).
    """
    branches = len(text)
    mine = model.transformer(
        latents.expand(branches, -1, -1, -1, -1),
        text,
        timestep.expand(branches).to(latents.device),
        image_rotary_emb=rotary,
        attention_kwargs={"region_map": regions, "sequence": parallel.sequence},
        return_dict=False,
    )[0]
    negative, positive = parallel.all_branches(mine).float().chunk(2)
    return negative + settings.guidance_scale * (positive - negative)


def advance(
    scheduler: CogVideoXDPMScheduler, prediction: torch.Tensor, state: DenoisingState, generator: torch.Generator
) -> DenoisingState:
    """One step of the second-order stochastic DPM solver."""
    back = scheduler.timesteps[state.step - 1] if state.step > 0 else None
    latents, original = scheduler.step(
        prediction,
        state.old_pred_original_sample,
        scheduler.timesteps[state.step],
        back,
        state.latents.float(),
        generator=generator,
        return_dict=False,
    )
    return DenoisingState(state.step + 1, latents.to(state.latents.dtype), original)


def render_scene(
    model: VideoModel, scene: Scene, seed: int, settings: RenderSettings, start: DenoisingState | None = None
) -> torch.Tensor:
    """The scene's latents, (1, frames, channels, h, w)."""
    *_, last = denoise(model, scene, seed, settings, start)
    return last.latents
