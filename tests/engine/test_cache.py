"""The step cache: off by default, exact when it never reuses, gone when the scene is done."""

from __future__ import annotations

import pytest
import torch

from engine.errors import InputError
from engine.models import load_bundle
from engine.plan import Scene
from engine.scene import denoise, render_scene
from engine.settings import ExecutionPlan, RenderSettings, check_cache
from engine.video_model import VideoModel

SCENE = Scene(id="s", background="a green forest")
STEPS = 8


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return VideoModel(load_bundle("miniature").model_copy(update={"num_frames": 9}))


def rendered(model: VideoModel, cache: float | None, **kwargs) -> tuple[torch.Tensor, int]:
    """The latents, and how often the last block ran."""
    runs = []
    block = model.transformer.transformer_blocks[-1]
    hook = block.attn1.to_q.register_forward_hook(lambda *_: runs.append(1))
    settings = RenderSettings(num_inference_steps=STEPS, guidance_scale=3, cache=cache)
    latents = render_scene(model, SCENE, 1, settings, **kwargs)
    hook.remove()
    return latents, len(runs)


def test_a_cache_saves_blocks_and_leaves_no_trace(model: VideoModel) -> None:
    exact, runs = rendered(model, None)
    assert runs == STEPS
    careful, runs = rendered(model, 1e-9)
    assert runs == STEPS and torch.equal(careful, exact)
    hasty, runs = rendered(model, 1.0)
    assert runs < STEPS and not torch.equal(hasty, exact)
    assert torch.isfinite(hasty).all()
    assert torch.equal(rendered(model, 1.0)[0], hasty)  # nothing is left of the scene before
    assert torch.equal(rendered(model, None)[0], exact)


def test_an_interrupted_scene_with_a_cache_starts_again(model: VideoModel) -> None:
    settings = RenderSettings(num_inference_steps=STEPS, guidance_scale=3, cache=1.0)
    states = list(denoise(model, SCENE, 1, settings))
    again = list(denoise(model, SCENE, 1, settings, start=states[3]))
    assert len(again) == STEPS
    assert torch.equal(again[-1].latents, states[-1].latents)


def test_several_workers_and_a_cache_are_refused() -> None:
    settings = RenderSettings(num_inference_steps=STEPS, guidance_scale=3, cache=0.3)
    alone = ExecutionPlan(device="cpu", dtype="float32", threads=1)
    check_cache(settings, alone)
    with pytest.raises(InputError, match=r"--cache 0.3: .* 6 workers \(guidance_degree 2 x ulysses_degree 3\)"):
        check_cache(settings, alone.model_copy(update={"guidance_degree": 2, "ulysses_degree": 3}))


def test_without_a_cache_results_keep_their_names() -> None:
    assert "cache" not in RenderSettings(num_inference_steps=STEPS, guidance_scale=3).model_dump()
