"""The same claims at full size: `make test-long`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from engine.attention import region_attention
from engine.plan import Box, Region, Scene
from engine.regions import Grid, region_map
from engine.textform import parse_text
from tests.engine.small import dense_mask

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parent.parent.parent
COGVIDEOX_2B = Grid(12, 30, 45)


def test_grouped_attention_at_cogvideox_2b() -> None:
    """16,200 visual tokens, four conditions of 226 text tokens, one head of 64, overlapping and moving boxes."""

    def boxes(x: float) -> dict[int, Box]:
        return {k: Box(x + 0.05 * k, 0.2, x + 0.3 + 0.05 * k, 0.9) for k in range(1, 7)}

    starts = {"fox": 0.0, "owl": 0.2, "pig": 0.35}
    regions = [Region(entity=e, motion="walks", caption=e, boxes=boxes(x)) for e, x in starts.items()]
    places = region_map(Scene(id="s", background="a forest", regions=tuple(regions)), COGVIDEOX_2B, 226)
    length = places.text_length + COGVIDEOX_2B.size
    assert length == 17_104
    q, k, v = (torch.randn(1, 1, length, 64, generator=torch.Generator().manual_seed(n)) for n in range(3))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=dense_mask(places))
    assert (region_attention(q, k, v, places) - expected).abs().max() <= 1e-5


def test_every_authors_plan_through_regions_and_attention(author_plans) -> None:
    grid = Grid(12, 10, 15)
    for name, text in author_plans:
        places = region_map(parse_text(text, name[:4]).scene, grid, 4)
        length = places.text_length + grid.size
        q, k, v = (torch.randn(1, 1, length, 8, generator=torch.Generator().manual_seed(n)) for n in range(3))
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=dense_mask(places))
        assert (region_attention(q, k, v, places) - expected).abs().max() <= 1e-5


def _folder_of_2b_shape(folder: Path) -> None:
    """A bundle in the hub's format with CogVideoX-2B's own transformer (30 blocks of 30 heads x 64, 1.7 billion random
    weights in bfloat16); its clip, text encoder and VAE are tiny."""
    import shutil

    import yaml
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
    from transformers import T5Config, T5EncoderModel

    from engine.models import load_bundle

    small = load_bundle("miniature")
    video = folder / "video"
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(f"{small.video_path}/{part}", video / part)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=30, attention_head_dim=64, num_layers=30, in_channels=16, out_channels=16,
            text_embed_dim=64, max_text_seq_length=16, time_embed_dim=512, sample_height=4, sample_width=6,
            sample_frames=5,
        )  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)
    assert sum(p.numel() for p in transformer.parameters()) > 1.6e9
    transformer.save_pretrained(video / "transformer")
    vocabulary = len(json.loads((video / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"])
    T5EncoderModel(
        T5Config(vocab_size=vocabulary, d_model=64, d_kv=16, num_heads=2, d_ff=64, num_layers=1)
    ).save_pretrained(video / "text_encoder")
    AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4), latent_channels=16, layers_per_block=1, norm_num_groups=2,
    ).save_pretrained(video / "vae")  # fmt: skip
    bundle = {
        "name": "shape-of-2b", "license": "random weights", "video": "video", "height": 32, "width": 48,
        "num_frames": 8, "text_tokens": 16, "num_inference_steps": 4, "guidance_scale": 6.0, "dtype": "bfloat16",
        "memory_gb": {"transformer": 3.4, "text_encoder": 0.01, "vae": 0.01, "activations": 0.1},
        "priors": {"rank": 4},
    }  # fmt: skip
    (folder / "bundle.yaml").write_text(yaml.safe_dump(bundle))


def test_a_transformer_of_cogvideox_2b_by_one_and_two_workers(tmp_path: Path) -> None:
    """All of `make gpu-check`, in bfloat16, on a reduced number of tokens: 24 visual tokens, three conditions of 16."""
    _folder_of_2b_shape(tmp_path)
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--model", str(tmp_path), "--workers", "2"]
    done = subprocess.run([*command, "--dtype", "bfloat16"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip(), done.stderr[-3000:]
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert report["verdict"] == "ok", report
    assert {(case["guidance"], case["ulysses"]) for case in report["cases"]} == {(2, 1), (1, 2)}
