"""Priors: the losses are their formulas, only the prior moves, and what comes out is a stock LoRA file."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline
from PIL import Image
from safetensors.torch import load, save

from engine import learning, subjects
from engine.adapters import region_loras
from engine.errors import InputError
from engine.learning import frame_loss
from engine.lora import LAYERS, LoraBank, adapted_layers, load_lora, remove_lora, resident_loras, save_lora
from engine.models import load_bundle
from engine.plan import Box, Region, Scene
from engine.priors import (
    Prior,
    TrainingClip,
    debiased,
    learn_motion,
    learn_subject,
    motion_loss,
)
from engine.subjects import draw_places, subject_views
from engine.unfinished import NOWHERE, Saves
from engine.video_model import VideoModel
from tests.engine.small import GRID, TEXT_TOKENS, small_map, tiny_transformer
from tests.engine.tiny import SETTINGS, TinyModel, clips, sprite


@pytest.fixture
def model() -> TinyModel:
    return TinyModel()


def _hash(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def test_losses_are_their_formulas() -> None:
    target, prediction = (
        torch.randn(2, 6, 4, 3, 5, dtype=torch.float64),
        torch.randn(2, 6, 4, 3, 5, dtype=torch.float64),
    )
    anchor = torch.tensor([1, 4])

    def phi(x: torch.Tensor, n: int, frame: int) -> torch.Tensor:
        return 2**0.5 * x[n, frame] - x[n, int(anchor[n])]

    squares = [((phi(prediction, n, f) - phi(target, n, f)) ** 2).mean() for n in range(2) for f in range(6)]
    expected = ((prediction - target) ** 2).mean() + sum(squares) / 12
    assert torch.isclose(motion_loss(target, prediction, anchor), expected)
    one_frame = sum(((prediction[n, f] - target[n, f]) ** 2).mean() for n, f in enumerate([1, 4])) / 2
    assert torch.isclose(frame_loss(target, prediction, anchor), one_frame)
    weight = torch.zeros(2, 1, 1, 3, 5, dtype=torch.float64)
    weight[0, ..., 2, 3] = 0.5
    expected = ((prediction - target)[0, 1, :, 2, 3] ** 2).mean()
    assert torch.isclose(frame_loss(target, prediction, anchor, weight), expected)


def test_an_appearance_that_is_wrong_in_every_frame_weighs_little_in_the_debiased_loss() -> None:
    target, still, moving = torch.randn(1, 6, 4, 3, 5), torch.ones(1, 6, 4, 3, 5), torch.ones(1, 6, 4, 3, 5)
    moving[:, ::2] = -1
    anchor = torch.tensor([2])
    errors = [(debiased(target + e, anchor) - debiased(target, anchor)).square().mean() for e in (still, moving)]
    assert errors[0] < 0.2 < 2 < errors[1]


@pytest.mark.parametrize("placement, first, second", [("interleaved", (0, 2), (1, 3)), ("halves", (0, 1), (2, 3))])
def test_motions_and_subjects_never_meet_in_a_block(placement: str, first, second, model: TinyModel) -> None:
    settings = SETTINGS.model_copy(update={"steps": 1, "subject_steps": 1, "placement": placement})
    motion = learn_motion(model, clips(), settings, 0)
    subject = learn_subject(model, [sprite()], "[v1] dragon", settings, 0)
    for prior, blocks in ((motion, first), (subject, second)):
        expected = {
            f"transformer.transformer_blocks.{block}.{layer}.lora_{letter}.weight"
            for block in blocks for layer in LAYERS for letter in "AB"
        }  # fmt: skip
        assert set(load(prior.weights)) == expected


def test_the_base_is_bit_equal_and_the_prior_has_learned(model: TinyModel) -> None:
    before, rng = _hash(model.transformer), torch.random.get_rng_state()
    steps: list[tuple[int, int]] = []
    prior = learn_motion(model, clips(), SETTINGS, 0, lambda done, total: steps.append((done, total)))
    learn_subject(model, [sprite()], "[v1] dragon", SETTINGS, 0)
    assert _hash(model.transformer) == before
    assert torch.equal(torch.random.get_rng_state(), rng)
    assert not any(p.requires_grad or p.grad is not None for p in model.transformer.parameters())
    assert all(not m._forward_hooks for m in model.transformer.modules())
    ups = [tensor for name, tensor in load(prior.weights).items() if "lora_B" in name]
    assert all(tensor.abs().max() > 1e-3 for tensor in ups)  # they began at zero
    assert steps == [(n + 1, 4) for n in range(4)]
    assert json.loads(json.dumps(prior.card))["kind"] == "motion" and len(prior.card["curve"]) == 4


def test_videos_loras_change_what_a_motion_learns(model: TinyModel) -> None:
    with_them, without = (
        learn_motion(model, clips(), SETTINGS.model_copy(update={"video_loras": on}), 0) for on in (True, False)
    )
    assert with_them.weights != without.weights


def test_learning_lowers_the_loss(model: TinyModel) -> None:
    settings = SETTINGS.model_copy(update={"steps": 40, "subject_steps": 40, "dropout": 0.0})
    for prior in (
        learn_motion(model, clips(1), settings, 0),
        learn_subject(model, [sprite()], "[v1] ball", settings, 0),
    ):
        assert prior.card["loss_after"] < 0.97 * prior.card["loss_before"]


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(model: TinyModel) -> None:
    first, again, other = (learn_motion(model, clips(), SETTINGS, seed).weights for seed in (3, 3, 4))
    assert first == again != other
    first, again, other = (learn_subject(model, [sprite()], "[v1] cat", SETTINGS, s).weights for s in (3, 3, 4))
    assert first == again != other


def _lesson(model: TinyModel, count: int) -> learning.Lesson:
    latents = torch.randn(count, *model.latent_shape)
    examples = learning.Examples(
        latents, torch.randn(count, TEXT_TOKENS, 12), torch.ones(count, 1, 1, *latents.shape[-2:])
    )
    return learning.Lesson(examples, examples)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_video_that_is_not_seen_keeps_its_lora(stage: int, model: TinyModel) -> None:
    """20 steps on clip A leave clip B's LoRA untouched, with decay on and after B has moments of its own, while the
    motion's LoRA learns through DeepSpeed at any ZeRO stage."""
    settings, lesson = SETTINGS.model_copy(update={"weight_decay": 0.1}), _lesson(model, 2)
    denoiser, source = learning.Denoiser(model), torch.Generator().manual_seed(1)
    videos = learning.VideoLoras(model, [lesson], settings, "r", 0)
    bank = LoraBank(adapted_layers(model.transformer, "motion"), 4)
    objective = learning.Objective(bank, denoiser, lambda batch, said, _: (batch.target - said).square().mean())
    first = bank.loras[0].detach().clone()
    with learning.deepspeed_engine(objective, settings, learning.ALONE, "cpu", stage) as engine:

        def step(pick: list[int]) -> None:
            batch = denoiser.noised(lesson.examples, pick, source)
            videos.step(denoiser, batch, [pick], torch.zeros(len(pick), dtype=torch.long))
            with bank.applied(model.transformer, [0] * len(pick)):
                losses = engine(batch, [source])
                engine.backward(losses.sum())
            engine.step()

        step([0, 1])
        before = [lora.detach().clone() for lora in videos.bank.loras]
        for _ in range(20):
            step([0])
    assert torch.equal(videos.bank.loras[1], before[1]) and not torch.equal(videos.bank.loras[0], before[0])
    assert not torch.equal(bank.loras[0], first)


def test_each_sample_of_a_batch_passes_through_its_own_lora(model: TinyModel) -> None:
    bank = LoraBank(adapted_layers(model.transformer, "subject"), 4, sources=[None, None])
    for lora in bank.loras:
        torch.nn.init.normal_(lora, std=0.3)
    name = "transformer_blocks.1.ff.net.2"
    layer, x = model.transformer.get_submodule(name), torch.randn(3, 5, 128)
    expected = []
    for n, number in enumerate((1, 0, 1)):
        down, up = bank.weights(number)[name]
        expected.append(layer(x[n]) + (x[n] @ down.T) @ up.T)
    with bank.applied(model.transformer, (1, 0, 1)):
        assert torch.allclose(layer(x), torch.stack(expected), atol=1e-5)
    assert torch.equal(layer(x[0]), torch.nn.functional.linear(x[0], layer.weight, layer.bias))
    # the same by region LoRA's token mask with a batch axis, over the LoRAs' files
    for number in (0, 1):
        load_lora(model.transformer, save_lora(bank.weights(number)), f"l{number}")
    masks = {
        f"l{n}": torch.tensor([float(own == n) for own in (1, 0, 1)]).view(3, 1, 1).expand(3, 5, 1) for n in (0, 1)
    }
    with region_loras(model.transformer, masks):
        assert torch.allclose(model.transformer.get_submodule(name)(x), torch.stack(expected), atol=1e-5)


def _forward(transformer: torch.nn.Module, text: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 6, 4, 10, 14, generator=generator)
    return transformer(latents, text, torch.tensor([400]), return_dict=False)[0]


def _strong(model: TinyModel, kind: str = "motion") -> LoraBank:
    torch.manual_seed(9)
    bank = LoraBank(adapted_layers(model.transformer, kind), 4)
    torch.nn.init.normal_(bank.loras[0], std=0.2)
    return bank


def test_stock_diffusers_loads_the_file_to_the_same_effect(model: TinyModel, tmp_path) -> None:
    bank, text = _strong(model), model.encode_texts(["a ball"])[0]
    with torch.no_grad(), bank.applied(model.transformer, [0]):
        expected = _forward(model.transformer, text)
    (tmp_path / "motion.safetensors").write_bytes(save_lora(bank.weights()))
    stock = tiny_transformer(layers=4)
    pipeline = CogVideoXPipeline(None, None, model.vae, stock, CogVideoXDDIMScheduler())
    pipeline.load_lora_weights(tmp_path, weight_name="motion.safetensors", adapter_name="m")
    assert stock.peft_config["m"].r == stock.peft_config["m"].lora_alpha == 4
    with torch.no_grad():
        assert torch.allclose(_forward(stock, text), expected, atol=1e-5)
        assert not torch.allclose(_forward(model.transformer, text), expected, atol=1e-2)


def test_a_loaded_lora_acts_in_its_region_alone_and_is_removed_whole(model: TinyModel) -> None:
    bank, before = _strong(model), _hash(model.transformer)
    box = {n: Box(0, 0, 0.5, 1) for n in range(1, 7)}
    region = Region(entity="fox", motion="hops", caption="a fox hops", boxes=box)
    regions = small_map(Scene(id="s", background="a forest", regions=(region,)))
    layer, x = model.transformer.transformer_blocks[2].attn1.to_k, torch.randn(1, regions.text_length + GRID.size, 32)
    plain = layer(x)
    with bank.applied(model.transformer, [0]):
        everywhere = layer(x)
    load_lora(model.transformer, save_lora(bank.weights()), "hops")
    load_lora(model.transformer, save_lora(_strong(model, "subject").weights()), "fox")
    assert resident_loras(model.transformer) == ["hops", "fox"]
    layer = model.transformer.transformer_blocks[2].attn1.to_k
    assert torch.equal(layer(x), plain)  # resident, but nobody has said where
    mask = regions.token_mask(lambda r: r.motion == "hops")
    assert 0 < mask.sum() < len(mask)
    with region_loras(model.transformer, {"hops": mask}):
        assert torch.allclose(layer(x), torch.where(mask.bool(), everywhere, plain), atol=1e-5)
    # another prior can be learned beside resident ones, which take no part in it
    alone = learn_motion(TinyModel(), clips(), SETTINGS, 0).weights
    assert learn_motion(model, clips(), SETTINGS, 0).weights == alone
    for name in ("hops", "fox"):
        remove_lora(model.transformer, name)
    assert _hash(model.transformer) == before
    with pytest.raises(KeyError, match="hops"):
        remove_lora(model.transformer, "hops")


def test_views_of_a_subject() -> None:
    views = subject_views([sprite()], 40, 56, seed=2)
    assert len(views) == subjects.VIEWS
    for view in views:
        assert view.picture.shape == (40, 56, 3) and view.mask.shape == (40, 56)
        height = np.flatnonzero((view.mask > 0.5).any(1))
        assert 0.3 * 40 <= height[-1] - height[0] + 1 <= 0.6 * 40
        assert (view.picture[view.mask == 1] == [255, 0, 0]).all()
    assert len({view.mask.tobytes() for view in views}) > 6  # at many places
    places = [("in the forest", np.full((40, 56, 3), 30, np.uint8)), ("at sea", np.full((40, 56, 3), 90, np.uint8))]
    placed = subject_views([sprite()], 40, 56, seed=2, places=places)
    assert [view.place for view in placed[:3]] == ["in the forest", "at sea", "in the forest"]
    for view, (_, behind) in zip(placed[:2], places, strict=True):
        assert np.array_equal(view.picture[view.mask == 0], behind[view.mask == 0])
        assert (view.picture[view.mask == 1] == [255, 0, 0]).all()
    opaque = subject_views([np.full((30, 20, 3), 7, np.uint8)], 40, 56, seed=2)
    assert len(opaque) == 1 and opaque[0].mask.all() and opaque[0].picture.shape == (30, 20, 3)


def test_bad_input_is_named(model: TinyModel) -> None:
    still = TrainingClip("one", "a thing", np.zeros((1, 40, 56, 3), np.uint8))
    silent = TrainingClip("mute", " ", np.zeros((8, 40, 56, 3), np.uint8))
    for shown, words in (([], "no clips"), ([still], "clip one"), ([silent], "clip mute.*caption")):
        with pytest.raises(InputError, match=words):
            learn_motion(model, shown, SETTINGS, 0)
    for images, words in (
        ([], "no reference image"),
        ([sprite(), np.zeros((9, 9), np.uint8)], "reference image 2"),
        ([Image.new("RGBA", (50, 50))], "reference image 1.*show nothing"),
        ([Image.new("RGB", (2, 2))], "reference image 1.*2 x 2"),
        (["fox.png"], "reference image 1 cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            learn_subject(model, images, "[v1] dragon", SETTINGS, 0)
    with pytest.raises(InputError, match="phrase"):
        learn_subject(model, [sprite()], " ", SETTINGS, 0)


def test_a_file_that_is_no_lora_of_this_model_is_refused(model: TinyModel) -> None:
    wide = LoraBank({n: (2 * a, 2 * b) for n, (a, b) in adapted_layers(model.transformer, "motion").items()}, 4)
    for weights, words in (
        (b"\x80\x04K\x01.", "not a safetensors file"),
        (save({"transformer.proj_out.weight": torch.ones(2)}), "proj_out.weight.* no LoRA"),
        (save_lora(wide.weights()), "another base model"),
    ):
        with pytest.raises(InputError, match=words):
            load_lora(model.transformer, weights, "bad")
    assert not resident_loras(model.transformer)


def test_the_base_model_draws_the_places_that_it_has_words_for(monkeypatch) -> None:
    monkeypatch.setattr(subjects, "PLACE_STEPS", 2)
    model = VideoModel(load_bundle("miniature"))
    words = model.bundle.words
    assert words
    two = dict(list(words.places.items())[:2])
    model.bundle = model.bundle.model_copy(update={"words": words.model_copy(update={"places": two})})
    drawn = draw_places(model, 3)
    assert [place for place, _ in drawn] == [place for place, _ in two.values()]
    assert all(picture.shape == (64, 112, 3) for _, picture in drawn)
    assert not np.array_equal(drawn[0][1], drawn[1][1])
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(drawn, draw_places(model, 3), strict=True))
    open_words = model.bundle.model_copy(update={"words": None})
    model.bundle = open_words
    assert draw_places(model, 3) == []


@pytest.mark.parametrize("kind", ["motion", "subject"])
def test_an_interrupted_prior_goes_on_to_the_same_bytes(kind: str, model: TinyModel, monkeypatch) -> None:
    monkeypatch.setattr(learning, "SAVE_PRIOR_STEPS", 3)
    settings = SETTINGS.model_copy(update={"steps": 8, "subject_steps": 8})
    kept: list[bytes] = []
    saves = Saves(lambda: kept[-1] if kept else None, kept.append)

    def learn(saves: Saves = NOWHERE, stop_at: int = 0) -> Prior:
        def report(done: int, total: int) -> None:
            if done == stop_at:
                raise KeyboardInterrupt

        if kind == "motion":
            return learn_motion(model, clips(), settings, 0, report, saves=saves)
        return learn_subject(model, [sprite()], "[v1] dragon", settings, 0, report, saves=saves)

    undisturbed = learn()
    for stop_at in (5, 7):
        with pytest.raises(KeyboardInterrupt):
            learn(saves, stop_at)
    assert len(kept) == 2  # after the third and the sixth step
    resumed = learn(saves)
    assert resumed.weights == undisturbed.weights
    assert resumed.card["curve"] == undisturbed.card["curve"] and resumed.card["steps"] == 8
    kept[:] = [kept[-1][:-9]]  # a save that was cut counts as none
    assert learn(saves).weights == undisturbed.weights
