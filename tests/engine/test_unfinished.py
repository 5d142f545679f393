"""A scene that is interrupted goes on with its last saved step, and ends with the same bits."""

from __future__ import annotations

import pytest
import torch

from engine.models import load_bundle
from engine.plan import Box, Region, Scene
from engine.render import render_clip
from engine.settings import ExecutionPlan, RenderSettings
from engine.unfinished import SAVE_STEPS, Saves, unpack
from engine.video_model import VideoModel

FOX = Region(
    entity="fox", motion="dances", caption="a fox dances in the forest",
    boxes=dict.fromkeys(range(1, 7), Box(0.2, 0.2, 0.8, 1)),
)  # fmt: skip
SCENE = Scene(id="s", background="a green forest", regions=(FOX,))
STEPS = 2 * SAVE_STEPS + 2


def test_a_scene_goes_on_where_it_was_saved() -> None:
    model = VideoModel(load_bundle("miniature").model_copy(update={"num_frames": 9}))
    settings = RenderSettings(num_inference_steps=STEPS, guidance_scale=3)
    execution = ExecutionPlan(device="cpu", dtype="float32", threads=1)
    kept: list[bytes] = []
    steps: list[int] = []

    def render(saves: Saves, stop_at: int = 0):
        def report(done: int, total: int) -> None:
            steps.append(done)
            if done == stop_at:
                raise KeyboardInterrupt

        return render_clip(model, SCENE, 1, settings, execution, report=report, saves=saves)

    undisturbed = render(Saves())
    saves = Saves(lambda: kept[-1] if kept else None, kept.append)
    with pytest.raises(KeyboardInterrupt):
        render(saves, 2 * SAVE_STEPS + 1)
    steps.clear()
    resumed = render(saves)
    assert steps == [2 * SAVE_STEPS + 1, STEPS]
    assert torch.equal(resumed.latents, undisturbed.latents) and resumed.clip == undisturbed.clip
    assert len(kept) == 2  # nothing more was saved


def test_what_is_no_save_is_nothing() -> None:
    assert unpack(None) is None and unpack(b"") is None and unpack(b"\x00" * 40) is None
