"""Bundles: one code path from the miniature to CogVideoX-2B and 5B."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from transformers import T5Config, T5EncoderModel

from engine.encodings import Encodings
from engine.errors import InputError
from engine.miniature.settings import VIDEO
from engine.miniature.train_video import SCHEDULER, build_tokenizer
from engine.models import load_bundle
from engine.plan import Box, Region, Scene
from engine.scene import denoise, render_scene
from engine.settings import RenderSettings
from engine.video_model import VideoModel

FOX = Region(
    entity="fox", motion="walks right", caption="a fox walks right in the forest", boxes={1: Box(0, 0, 0.5, 1)}
)
SCENE = Scene(id="s", background="a green forest", regions=(FOX,))
QUICK = RenderSettings(num_inference_steps=4, guidance_scale=4)


@pytest.fixture(scope="module")
def miniature() -> VideoModel:
    return VideoModel(load_bundle("miniature"))


def test_the_text_encoder_is_on_the_gpu_only_while_it_reads(miniature, monkeypatch) -> None:
    moves, to = [], miniature.text_encoder.to
    monkeypatch.setattr(miniature.text_encoder, "to", lambda device: moves.append(str(device)) or to("cpu"))
    monkeypatch.setattr(miniature, "encodings", Encodings("fresh"))
    first = miniature.encode_texts(["a fox dances", "a robot dances"])
    assert moves == [str(miniature.device)] * 2 + ["cpu"]
    moves.clear()
    again = miniature.encode_texts(["a fox dances", "a robot dances"])
    assert moves == ["cpu"]  # known ones need no encoder
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_its_weights_are_small_and_safe() -> None:
    weights = [f for f in VIDEO.rglob("*") if f.suffix in (".safetensors", ".bin", ".pt")]
    assert {f.suffix for f in weights} == {".safetensors"}
    assert sum(f.stat().st_size for f in weights) < 40e6


def test_the_stock_pipeline_reads_the_folder() -> None:
    pipeline = CogVideoXPipeline.from_pretrained(VIDEO)
    assert pipeline.transformer.config.num_attention_heads == 6
    assert isinstance(pipeline.scheduler, CogVideoXDPMScheduler)


def test_the_same_seed_is_the_same_scene(miniature) -> None:
    first, second = (render_scene(miniature, SCENE, 1, QUICK) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, render_scene(miniature, SCENE, 2, QUICK))
    other = SCENE.model_copy(update={"id": "t"})
    assert not torch.equal(first, render_scene(miniature, other, 1, QUICK))


def test_a_scene_goes_on_from_any_step(miniature) -> None:
    states = list(denoise(miniature, SCENE, 1, QUICK))
    assert [state.step for state in states] == [1, 2, 3, 4]
    for start in states[:-1]:
        assert torch.equal(render_scene(miniature, SCENE, 1, QUICK, start), states[-1].latents)


def test_frames_are_pictures(miniature) -> None:
    frames = miniature.decode(render_scene(miniature, SCENE, 1, QUICK))
    assert frames.shape == (24, 64, 112, 3) and frames.dtype == torch.uint8
    assert frames.float().std() > 10


@pytest.fixture(scope="module", params=["2b", "5b"])
def large(request, tmp_path_factory) -> VideoModel:
    """CogVideoX's own sizes (heads, widths, positions, text width), few layers, random weights, in the hub's format."""
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(0)
    big = request.param == "5b"
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=48 if big else 30, num_layers=1, use_rotary_positional_embeddings=big, sample_frames=49
    )
    transformer.bfloat16().save_pretrained(folder / "video" / "transformer")
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 16, 16), down_block_types=("CogVideoXDownBlock3D",) * 4, layers_per_block=1,
        up_block_types=("CogVideoXUpBlock3D",) * 4, latent_channels=16, norm_num_groups=4, temporal_compression_ratio=4,
    )  # fmt: skip
    vae.save_pretrained(folder / "video" / "vae")
    tokenizer = build_tokenizer()
    config = T5Config(vocab_size=len(tokenizer), d_model=4096, d_kv=8, num_heads=1, d_ff=16, num_layers=1)
    T5EncoderModel(config).save_pretrained(folder / "video" / "text_encoder")
    tokenizer.save_pretrained(folder / "video" / "tokenizer")
    CogVideoXDPMScheduler(**SCHEDULER).save_pretrained(folder / "video" / "scheduler")
    settings = load_bundle("cogvideox-2b").model_dump(mode="json", exclude={"folder"})
    (folder / "bundle.yaml").write_text(json.dumps({**settings, "video": "video", "height": 96, "width": 144}))
    return VideoModel(load_bundle(str(folder)), dtype="float32")


def test_cogvideox_at_its_own_width(large) -> None:
    assert large.grid == (12, 6, 9)
    *_, last = denoise(large, SCENE, 1, RenderSettings(num_inference_steps=2, guidance_scale=6))
    assert last.latents.shape == (1, 12, 16, 12, 18)
    assert torch.isfinite(last.latents).all()
    assert large.decode(last.latents).shape == (48, 96, 144, 3)


def test_cogvideox_sizes_of_the_paper() -> None:
    bundle = load_bundle("cogvideox-2b")
    assert (bundle.num_frames, bundle.height, bundle.width, bundle.text_tokens) == (48, 480, 720, 226)
    assert bundle.video_path == "zai-org/CogVideoX-2b"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"height": 63}, "height"),
        ({"guidance_scale": 0}, "guidance_scale"),
        ({"colour": "red"}, "colour"),
        ({"dtype": "int8"}, "dtype"),
    ],
)
def test_a_broken_bundle_is_named(tmp_path: Path, change: dict, words: str) -> None:
    settings = load_bundle("miniature").model_dump(mode="json", exclude={"folder"})
    (tmp_path / "bundle.yaml").write_text(json.dumps({**settings, **change}))
    with pytest.raises(InputError, match=f"bundle.yaml: {words}"):
        load_bundle(str(tmp_path))
