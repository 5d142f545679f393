"""Many priors in one resident model: the base stays what its file says, and priors do not disturb each other."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing

import pytest
import torch
from diffusers import CogVideoXDPMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from safetensors.torch import load

from engine import learning
from engine.adapters import region_loras
from engine.encodings import Encodings, Shelf
from engine.errors import InputError
from engine.groups import Ranks, free_address
from engine.lora import LoraBank, adapted_layers, load_lora, save_lora
from engine.plan import Box, Region, Scene
from engine.priors import Portrait, Prior, learn_motion, learn_motions, learn_subject, learn_subjects
from engine.render import render_clip
from engine.settings import ExecutionPlan, RenderSettings
from engine.unfinished import Saves
from tests.engine.small import TEXT_TOKENS, tiny_transformer
from tests.engine.tiny import SETTINGS, TinyModel, clips, sprite

BALL = Region(entity="ball", motion="hops", caption="a ball hops", boxes=dict.fromkeys(range(1, 7), Box(0, 0, 0.6, 1)))
SCENE = Scene(id="s", background="a forest", regions=(BALL,))


@pytest.fixture
def model() -> TinyModel:
    return TinyModel()


def _with(**changes) -> learning.PriorSettings:
    return SETTINGS.model_copy(update=changes)


def _close(a: Prior, b: Prior) -> bool:
    one, other = load(a.weights), load(b.weights)
    assert one.keys() == other.keys()
    return all((tensor - other[name]).norm() < 1e-2 * tensor.norm() for name, tensor in one.items())


class _Use:
    """A prior in a scene."""

    of, name, key = "motion", "hops", "k"


def _latents(model: TinyModel, prior: Prior | None) -> torch.Tensor:
    settings = RenderSettings(num_inference_steps=2, guidance_scale=3)
    execution = ExecutionPlan(device="cpu", dtype="float32", threads=1)
    uses = [_Use()] if prior else []
    made = render_clip(model, SCENE, 1, settings, execution, uses, lambda key: prior.weights if prior else b"")
    assert made
    return made.latents


def test_twenty_priors_leave_the_base_as_its_file_says_memory_flat_and_scenes_as_they_were(model, tmp_path) -> None:
    model.transformer.save_pretrained(tmp_path)
    hops = learn_motion(model, clips(), SETTINGS, 9)
    before = _latents(model, None), _latents(model, hops)
    assert not torch.equal(*before)

    def alive() -> int:
        gc.collect()
        return sum(o.numel() for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter))

    few, held = _with(steps=1, subject_steps=1), {}
    for n in range(20):
        learn_motion(model, clips(), few, n) if n % 2 else learn_subject(model, [sprite()], "[v1] ball", few, 0)
        if n in (1, 19):
            held[n] = alive()
    assert held[19] <= held[1]
    assert torch.equal(_latents(model, None), before[0]) and torch.equal(_latents(model, hops), before[1])
    file = load((tmp_path / "diffusion_pytorch_model.safetensors").read_bytes())
    now = {
        name.replace(".base_layer", ""): t for name, t in model.transformer.state_dict().items() if "lora" not in name
    }
    assert now.keys() == file.keys() and all(torch.equal(now[name], tensor) for name, tensor in file.items())


@pytest.mark.parametrize("checkpointed", [False, True])
def test_priors_learned_in_one_batch_are_those_learned_alone(checkpointed: bool, model) -> None:
    """Of different numbers of clips, one of them with a clip held out; dropout is on, and they stop by themselves."""
    settings = _with(steps=8, check_every=2, patience=2, gradient_checkpointing=checkpointed, precision="model")
    shown = [clips(1), clips(6), clips(3)]
    alone = [learn_motion(model, own, settings, 0) for own in shown]
    together = learn_motions(model, shown, settings, 0)
    assert all(map(_close, alone, together))
    assert not _close(alone[0], alone[1])
    for one, other in zip(alone, together, strict=True):
        assert one.card["kept_step"] == other.card["kept_step"] and one.card["steps"] == other.card["steps"]
        assert one.card["curve"] == pytest.approx(other.card["curve"], rel=1e-3)
        assert one.card["held_out"] == other.card["held_out"]


def test_subjects_learned_in_one_batch_are_those_learned_alone(model) -> None:
    given = [Portrait([sprite()], "[v1] ball"), Portrait([sprite(24)] * 5, "[v2] coin")]
    exact = _with(precision="model")
    alone = [learn_subject(model, *subject, exact, 0) for subject in given]
    together = learn_subjects(model, given, exact, 0)
    assert all(map(_close, alone, together)) and not _close(*alone)
    assert [prior.card["held_out"] for prior in together] == [None, "picture 5"]
    assert [prior.card["phrase"] for prior in together] == ["[v1] ball", "[v2] coin"]


def test_gradients_are_the_same_when_activations_are_computed_again(model) -> None:
    plain, again = (learn_motion(model, clips(), _with(gradient_checkpointing=on), 0) for on in (False, True))
    assert plain.weights == again.weights and plain.card["curve"] == again.card["curve"]
    assert not model.transformer.gradient_checkpointing


def test_bfloat16_is_close_to_the_models_own_arithmetic(model) -> None:
    exact, half = (learn_motion(model, clips(), _with(precision=p), 0).card["curve"] for p in ("model", "bfloat16"))
    assert exact != half and exact == pytest.approx(half, rel=0.05)


def test_what_is_kept_is_the_average_of_the_steps(model) -> None:
    """After one step: a tenth of the first weights (Up is 0 there) and nine tenths of the new ones."""
    last, mean = (load(learn_motion(model, clips(), _with(steps=1, ema=ema), 0).weights) for ema in (0.0, 0.9))
    ups = [name for name in last if "lora_B" in name]
    assert ups and all(torch.allclose(mean[name], 0.9 * last[name], atol=1e-7) for name in ups)
    assert all(last[name].any() for name in ups)


def test_the_best_steps_are_kept_and_learning_ends_when_nothing_gets_better(model, monkeypatch) -> None:
    looks = iter([9.0, 5.0, 3.0, 4.0, 3.5, 3.2])
    seen = []

    def look(denoiser, bank, *_) -> torch.Tensor:
        seen.append(bank.loras[0].detach().clone())
        return torch.tensor([next(looks)])

    monkeypatch.setattr(learning, "_look", look)
    prior = learn_motion(model, clips(6), _with(steps=100, check_every=2, patience=3), 0)
    card = prior.card
    assert (card["steps"], card["kept_step"], len(card["curve"])) == (10, 4, 10)
    assert card["checks"] == [[0, 9.0], [2, 5.0], [4, 3.0], [6, 4.0], [8, 3.5], [10, 3.2]]
    assert (card["loss_before"], card["loss_after"]) == (9.0, 3.0)
    assert card["held_out"] == "c3" and [clip["name"] for clip in card["clips"]] == [f"c{n}" for n in range(6)]
    assert card["fingerprint"] == model.bundle.fingerprint and card["license"] == model.bundle.license
    bank = LoraBank(adapted_layers(model.transformer, "motion"), SETTINGS.rank)
    bank.loras[0].data.copy_(seen[2])
    assert save_lora(bank.weights(), model.bundle.base) == prior.weights


def test_a_clip_that_is_held_out_is_not_learned_from(model) -> None:
    shown = clips(6)
    changed = shown[3]._replace(caption="something else", frames=255 - shown[3].frames)
    one, other = (
        learn_motion(model, own, _with(check_every=4), 0) for own in (shown, [*shown[:3], changed, *shown[4:]])
    )
    assert one.card["curve"] == other.card["curve"] and one.card["checks"] != other.card["checks"]


def test_what_was_encoded_is_not_encoded_again(monkeypatch) -> None:
    kept: dict[str, bytes] = {}
    shelf, models = Shelf(kept.get, kept.__setitem__), [TinyModel(), TinyModel()]
    for model in models:
        model.encodings.shelf = shelf
    first = learn_motion(models[0], clips(), SETTINGS, 0)
    assert len(kept) == 3

    def fails(*_) -> None:
        raise AssertionError("encoded again")

    for model in models:
        monkeypatch.setattr(model.vae, "encode", fails)
        assert learn_motion(model, clips(), SETTINGS, 0).weights == first.weights
    with pytest.raises(AssertionError, match="encoded again"):
        learn_motion(models[0], [clips()[0]._replace(frames=255 - clips()[0].frames)], SETTINGS, 0)


def test_the_encodings_in_memory_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr("engine.encodings.MEMORY_BYTES", 100)
    encodings, made = Encodings("x"), []
    for n in (1, 2, 3, 3, 1):
        encodings.get("text", bytes([n]), lambda: made.append(1) or torch.zeros(10))
    assert len(made) == 4 and len(encodings.memory) == 2


def _pipeline(transformer: torch.nn.Module, model: TinyModel) -> torch.Tensor:
    """Latents by stock diffusers' own pipeline."""
    scheduler = CogVideoXDPMScheduler.from_config(model.scheduler_config)
    pipeline = CogVideoXPipeline(None, None, model.vae, transformer, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    words, nothing = model.encode_texts(["a ball hops", ""])
    return pipeline(
        prompt_embeds=words, negative_prompt_embeds=nothing, height=40,
        width=56, num_frames=24, num_inference_steps=3, guidance_scale=3.0, output_type="latent",
        generator=torch.Generator().manual_seed(3),
    ).frames  # fmt: skip


def test_stock_diffusers_makes_the_same_latents_with_our_file_as_our_loader_with_a_full_mask(model, tmp_path) -> None:
    prior = learn_motion(model, clips(), SETTINGS, 0)
    (tmp_path / "hops.safetensors").write_bytes(prior.weights)
    stock: CogVideoXTransformer3DModel = tiny_transformer(layers=4)
    plain = _pipeline(stock, model)
    CogVideoXPipeline(None, None, model.vae, stock, CogVideoXDPMScheduler()).load_lora_weights(
        tmp_path, weight_name="hops.safetensors"
    )
    by_stock = _pipeline(stock, model)
    load_lora(model.transformer, prior.weights, "hops")
    tokens = TEXT_TOKENS + model.grid.size
    with region_loras(model.transformer, {"hops": torch.ones(tokens, 1)}):
        by_us = _pipeline(model.transformer, model)
    assert torch.allclose(by_us, by_stock, atol=1e-4) and not torch.allclose(by_us, plain, atol=1e-2)


def test_a_lora_of_another_base_of_the_same_shape_is_refused(model) -> None:
    bank = LoraBank(adapted_layers(model.transformer, "motion"), 4)
    foreign = save_lora(bank.weights(), "miniature-plain 0123456789abcdef")
    with pytest.raises(InputError, match=r"LoRA k: it was learned for another base model \(miniature-plain 0123"):
        _latents(model, Prior(foreign, {}))
    own = learn_motion(model, clips(), SETTINGS, 0)
    assert _latents(model, own).isfinite().all()


def _member(rank: int, addresses: list[str], results: multiprocessing.Queue) -> None:
    """One of two ranks that learn a prior: undisturbed; interrupted after three steps; gone on with; and once more,
    when the other has lost what it saved."""
    torch.set_num_threads(1)
    learning.SAVE_PRIOR_STEPS = 2
    kept: list[bytes] = []
    saves = Saves(lambda: kept[-1] if kept else None, kept.append)

    def learn(saves: Saves, stop_at: int = 0) -> Prior:
        def report(done: int, total: int) -> None:
            if done == stop_at:
                raise KeyboardInterrupt

        ranks = Ranks(rank, 2, addresses.pop(0))
        return learn_motion(TinyModel(), clips(6), _with(check_every=2), 0, report, ranks, saves)

    made = [learn(Saves())]
    with contextlib.suppress(KeyboardInterrupt):
        learn(saves, stop_at=3)
    assert len(kept) == 1
    made.append(learn(saves))
    if rank == 1:
        kept.clear()
    made.append(learn(saves))
    results.put((rank, made))


def test_two_workers_learn_one_prior_and_go_on_after_a_death() -> None:
    """Each has its share of the clips; both end with the same weights. If one has lost its save, both begin anew."""
    context = multiprocessing.get_context("spawn")
    results, addresses = context.Queue(), [free_address() for _ in range(4)]
    members = [context.Process(target=_member, args=(rank, addresses, results), daemon=True) for rank in range(2)]
    for member in members:
        member.start()
    found = dict(results.get(timeout=200) for _ in members)
    for member in members:
        member.join()
    (first, *others), (second, *_) = found[0], found[1]
    assert first.weights == second.weights and first.card["checks"] == second.card["checks"]
    assert first.card["curve"] != second.card["curve"]
    assert all(prior.weights == first.weights and len(prior.card["curve"]) == 4 for prior in others)
