"""SR3AI: grouped attention is the dense reference, regions follow the plan, region LoRA is its formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from peft import LoraConfig

from engine.adapters import region_loras
from engine.attention import RegionAttnProcessor, attention_to_learn_through, region_attention
from engine.plan import Box, Region, Scene
from engine.regions import Grid, RegionMap, box_tokens, keyframe_of, region_map
from engine.textform import parse_text
from engine.video_model import prepare_transformer
from tests.engine.small import GRID, TEXT_TOKENS, dense_mask, scenes, small_map, tiny_transformer

FOX = Region(entity="fox", motion="walks", caption="a fox walks", boxes={1: Box(0, 0, 0.5, 1), 2: Box(0.2, 0, 0.7, 1)})
OWL = Region(
    entity="owl", motion="flies", caption="an owl flies", boxes={2: Box(0.5, 0, 1, 0.6), 3: Box(0.5, 0, 1, 0.6)}
)
SCENE = Scene(id="s", background="a forest", regions=(FOX, OWL))


def _dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, regions: RegionMap) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=dense_mask(regions))


def _qkv(regions: RegionMap, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    length = regions.text_length + GRID.size
    return [torch.randn(2, 2, length, 8, generator=generator, dtype=torch.float64).to(dtype) * 2 for _ in range(3)]


@given(scenes())
@settings(max_examples=60, deadline=None)
def test_grouped_attention_is_dense_attention(scene: Scene) -> None:
    regions = small_map(scene)
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        qkv = _qkv(regions, dtype)
        assert (region_attention(*qkv, regions) - _dense(*qkv, regions)).abs().max() <= bound


@pytest.mark.parametrize("masked", [False, True])
def test_attention_to_learn_through_is_the_kernel_s(masked: bool) -> None:
    torch.manual_seed(0)
    mask = torch.zeros(2, 1, 30, 30).masked_fill_(torch.rand(2, 1, 30, 30) < 0.3, float("-inf")) if masked else None
    if mask is not None:
        mask[..., 0] = 0  # a row that sees nothing has no softmax
    results = []
    for attention in (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        lambda q, k, v: attention_to_learn_through(q, k, v, mask),
    ):
        torch.manual_seed(1)
        qkv = [torch.randn(2, 3, 30, 8, requires_grad=True) for _ in range(3)]
        out = attention(*qkv)
        out.square().sum().backward()
        results.append([out.detach(), *(x.grad for x in qkv)])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@given(scenes())
@settings(max_examples=15, deadline=None)
def test_bfloat16_is_as_exact_as_the_plain_kernel(scene: Scene) -> None:
    """Against float64: at most 1.5 times the error of scaled_dot_product_attention with a mask."""
    regions = small_map(scene)
    mask = dense_mask(regions)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, len(mask), 16).bfloat16() for _ in range(3))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask)

    def error(out: torch.Tensor) -> float:
        return float((out.double() - exact).square().mean().sqrt())

    ours = error(region_attention(q, k, v, regions))
    assert ours <= 1.5 * error(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


@given(scenes())
@settings(max_examples=15, deadline=None)
def test_gradients_are_the_dense_ones(scene: Scene) -> None:
    regions = small_map(scene)
    grads = []
    for attend in (region_attention, _dense):
        qkv = [x.requires_grad_() for x in _qkv(regions, torch.float64)]
        attend(*qkv, regions).square().sum().backward()
        grads.append([x.grad for x in qkv])
    for ours, reference in zip(*grads, strict=True):
        assert (ours - reference).abs().max() <= 1e-9


@given(scenes())
@settings(max_examples=60, deadline=None)
def test_every_token_hears_something_and_groups_hold_each_once(scene: Scene) -> None:
    regions = small_map(scene)
    assert regions.heard.any(0).all()
    assert sorted(regions.order.tolist()) == list(range(GRID.size))
    assert [g.start for g in regions.groups[1:]] == [g.end for g in regions.groups[:-1]]
    for group in regions.groups:
        for token in regions.order[group.start : group.end].tolist():
            assert tuple(regions.heard[:, token].nonzero().flatten().tolist()) == group.conditions


def test_regions_follow_the_plan() -> None:
    regions = small_map(SCENE)
    assert regions.captions == ("a fox walks", "an owl flies", "a forest")
    heard = regions.heard.view(3, *GRID)
    assert heard[0, 0, :, :4].all() and not heard[0, 0, :, 4:].any()  # 0.5 of 7 columns is 3.5, rounded up
    assert heard[1, 1, :3, 4:].all() and not heard[1, 0].any()
    assert heard[0, 1, 0, 4] and heard[1, 1, 0, 4]  # they overlap there: both captions are heard
    assert heard[2, 3:].all()  # the background has the keyframes where nobody is


def test_keyframes_share_latent_frames() -> None:
    assert [keyframe_of(f, 12) for f in range(12)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert [keyframe_of(f, 13) for f in (0, 12)] == [1, 6]


def test_a_thin_box_keeps_a_token() -> None:
    rows, columns = box_tokens(Box(0.50, 0.98, 0.501, 1.0), Grid(1, 5, 7))
    assert rows == slice(4, 5) and columns.stop - columns.start == 1


@pytest.mark.parametrize("rotary", [False, True])
def test_a_whole_transformer_through_regions(rotary: bool) -> None:
    """CogVideoX's own forward with our processor equals the same forward with the dense mask in every block."""
    regions = small_map(SCENE)
    latents, text = torch.randn(2, 6, 4, 10, 14), torch.randn(2, regions.text_length, 12)
    table = (torch.randn(GRID.size, 16), torch.randn(GRID.size, 16)) if rotary else None

    class Dense(RegionAttnProcessor):
        def attend(self, q, k, v, region_map):
            return _dense(q, k, v, region_map)

    model = prepare_transformer(tiny_transformer(rotary))
    outputs = []
    for processor in (RegionAttnProcessor(), Dense()):
        model.set_attn_processor(processor)
        kwargs = {"region_map": regions}
        t = torch.tensor([500, 500])
        outputs.append(model(latents, text, t, image_rotary_emb=table, attention_kwargs=kwargs, return_dict=False)[0])
    assert torch.allclose(*outputs, atol=1e-5)


@pytest.mark.parametrize("rotary", [False, True])
def test_without_regions_it_is_the_stock_model(rotary: bool) -> None:
    latents, text, t = torch.randn(1, 6, 4, 10, 14), torch.randn(1, TEXT_TOKENS, 12), torch.tensor([300])
    table = (torch.randn(GRID.size, 16), torch.randn(GRID.size, 16)) if rotary else None
    stock = tiny_transformer(rotary)
    expected = stock(latents, text, t, image_rotary_emb=table, return_dict=False)[0]
    actual = prepare_transformer(stock)(latents, text, t, image_rotary_emb=table, return_dict=False)[0]
    assert torch.allclose(actual, expected, atol=1e-6)


def _with_lora(name: str, seed: int, model: torch.nn.Module) -> None:
    config = LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian",
                        target_modules=["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"])  # fmt: skip
    model.add_adapter(config, adapter_name=name)
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in model.named_parameters():
        if f".{name}." in key:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def test_region_lora_is_its_formula() -> None:
    """y = W x + sum_j m_j * Up_j(Down_j(m_j * x)), layer by layer, for two LoRAs whose regions overlap."""
    model = prepare_transformer(tiny_transformer())
    _with_lora("fox", 1, model)
    _with_lora("owl", 2, model)
    regions = small_map(SCENE)
    masks = {name: regions.token_mask(lambda r, name=name: r.entity == name) for name in ("fox", "owl")}
    assert ((masks["fox"] + masks["owl"]) == 2).any()
    layer = model.transformer_blocks[0].attn1.to_q
    x = torch.randn(2, regions.text_length + GRID.size, 32)
    expected = layer.base_layer(x)
    for name, mask in masks.items():
        expected = expected + mask * layer.lora_B[name](layer.lora_A[name](mask * x))
    with region_loras(model, masks):
        assert (layer(x) - expected).abs().max() <= 1e-6
    with region_loras(model, {}):
        assert torch.equal(layer(x), layer.base_layer(x))


def test_lora_masks_hold_their_own_text_and_boxes_alone() -> None:
    regions = small_map(SCENE)
    mask = regions.token_mask(lambda r: r.motion == "flies")[:, 0].bool()
    assert mask[:TEXT_TOKENS].sum() == 0 and mask[TEXT_TOKENS : 2 * TEXT_TOKENS].all()
    assert torch.equal(mask[regions.text_length :], regions.heard[1])


def test_a_lora_that_is_not_there_is_named() -> None:
    model = tiny_transformer()
    _with_lora("fox", 1, model)
    with pytest.raises(KeyError, match=r"ghost"), region_loras(model, {"ghost": torch.ones(1, 1)}):
        pass


def test_the_authors_plans_through_regions_and_attention(author_plans) -> None:
    grid = Grid(6, 5, 7)
    for name, text in author_plans[::10]:
        regions = region_map(parse_text(text, name[:4]).scene, grid, TEXT_TOKENS)
        qkv = _qkv(regions, torch.float64)
        assert (region_attention(*qkv, regions) - _dense(*qkv, regions)).abs().max() <= 1e-10
