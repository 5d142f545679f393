"""From a scene to its clip: LoRAs bound to their regions, denoising alone or with others, decoding, encoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from engine.adapters import region_loras
from engine.parallel import parallel_scene
from engine.plan import Region, Scene
from engine.regions import RegionMap, region_map
from engine.scene import denoise, load_state, save_state
from engine.settings import ExecutionPlan, RenderSettings
from engine.unfinished import NOWHERE, SAVE_STEPS, Saves
from engine.video import encode_video
from engine.video_model import VideoModel


class Bound(Protocol):
    """A LoRA in a scene: it acts on the regions whose motion, or entity, is `name`; `key` names its weights."""

    @property
    def of(self) -> Literal["motion", "subject"]: ...
    @property
    def name(self) -> str: ...
    @property
    def key(self) -> str: ...


def _no_lora(key: str) -> bytes:
    raise KeyError(f"nobody gives LoRA {key}")


@dataclass(frozen=True)
class Rendered:
    """A scene's latents (1, frames, channels, h, w), its clip as mp4, and seconds by what took them."""

    latents: torch.Tensor
    clip: bytes
    seconds: dict[str, float]


def render_clip(
    model: VideoModel,
    scene: Scene,
    seed: int,
    settings: RenderSettings,
    execution: ExecutionPlan,
    priors: Sequence[Bound] = (),
    fetch: Callable[[str], bytes] = _no_lora,
    report: Callable[[int, int], None] = lambda done, total: None,
    rank: int = 0,
    address: str = "",
    saves: Saves = NOWHERE,
    denoised: Callable[[], None] = lambda: None,
) -> Rendered | None:
    """Makes the scene as member `rank` of its workers, of which member 0 listens at `address`; it alone gets a result.

    `fetch` gives the safetensors of a LoRA that is not resident yet. LoRAs bind by the plan's entity and motion, never
    by looking into captions. What `saves` has of an earlier attempt is gone on with; all members see the same.
    `denoised` is called by member 0 when only the VAE and the encoder are left to work.
    """
    began = time.perf_counter()
    regions = region_map(scene, model.grid, model.bundle.text_tokens)
    adapters = model.loras.bring([prior.key for prior in priors], fetch)
    masks = {adapters[prior.key]: _acts_on(regions, prior).to(model.device) for prior in priors}
    start = load_state(saves.load(), model.device)
    loaded = time.perf_counter()
    with (
        parallel_scene(model, execution, rank, address) as parallel,
        region_loras(model.transformer, masks, parallel.sequence),
    ):
        for state in denoise(model, scene, seed, settings, start, parallel):
            if rank == 0:
                report(state.step, settings.num_inference_steps)
                if state.step % SAVE_STEPS == 0 and state.step < settings.num_inference_steps:
                    saves.save(save_state(state))
    if rank > 0:
        return None
    finished = time.perf_counter()
    denoised()
    frames = model.decode(state.latents).numpy()
    clip = encode_video(frames, model.bundle.fps, model.bundle.view_scale)
    decoded = time.perf_counter()
    seconds = {"loras": loaded - began, "denoising": finished - loaded, "decoding": decoded - finished}
    return Rendered(state.latents.float().cpu(), clip, seconds)


def _acts_on(regions: RegionMap, prior: Bound) -> torch.Tensor:
    def mine(region: Region) -> bool:
        return (region.motion if prior.of == "motion" else region.entity) == prior.name

    return regions.token_mask(mine)
