"""A bounded number of LoRAs in memory: the least recently used makes room, and nothing is left of it."""

from __future__ import annotations

import gc

import pytest
import torch

from engine.adapters import ResidentLoras, region_loras
from engine.errors import InputError
from engine.lora import LoraBank, adapted_layers, resident_loras, save_lora
from engine.video_model import prepare_transformer
from tests.engine.small import tiny_transformer


@pytest.fixture
def transformer():
    return prepare_transformer(tiny_transformer(layers=2))


def lora(transformer, seed: int, kind: str = "motion", scale: int = 1) -> bytes:
    torch.manual_seed(seed)
    layers = {name: (scale * n, scale * m) for name, (n, m) in adapted_layers(stock(transformer), kind).items()}
    bank = LoraBank(layers, 4)
    bank.loras[0].data.normal_(std=0.2)
    return save_lora(bank.weights())


def stock(transformer):
    """The layers' names and sizes before any adapter wraps them."""
    return tiny_transformer(layers=len(transformer.transformer_blocks))


def through(transformer, adapter: str | None, kind: str = "motion") -> torch.Tensor:
    """What one adapted layer makes of fixed tokens."""
    x = torch.linspace(-1, 1, 5 * 32).view(1, 5, 32)
    with region_loras(transformer, {adapter: torch.ones(5, 1)} if adapter else {}):
        return transformer.transformer_blocks[0 if kind == "motion" else 1].attn1.to_v(x)


class Files:
    """LoRA files by key, and which were asked for."""

    def __init__(self, transformer) -> None:
        self.transformer, self.asked = transformer, []

    def __call__(self, key: str) -> bytes:
        self.asked.append(key)
        kind = "subject" if key.startswith("s") else "motion"
        return lora(self.transformer, int(key[1:]), kind)


def test_the_least_recently_used_makes_room(transformer) -> None:
    files, there = Files(transformer), ResidentLoras(transformer, 3)
    assert len(set(there.bring(["m0", "m1", "m2"], files).values())) == 3
    there.bring(["m0"], files)  # now m1 is the oldest
    swapped = there.bring(["m3"], files)
    assert set(there.slots) == {"m2", "m0", "m3"}
    assert len(resident_loras(transformer)) == 3
    assert files.asked == ["m0", "m1", "m2", "m3"]
    fresh = prepare_transformer(tiny_transformer(layers=2))
    alone = ResidentLoras(fresh).bring(["m3"], Files(fresh))
    assert torch.equal(through(transformer, swapped["m3"]), through(fresh, alone["m3"]))
    assert not torch.allclose(through(transformer, swapped["m3"]), through(transformer, None), atol=1e-3)


def test_resident_loras_are_not_fetched_again(transformer) -> None:
    files, there = Files(transformer), ResidentLoras(transformer, 4)
    first = there.bring(["m0", "s1"], files)
    weights = {name: p.data_ptr() for name, p in transformer.named_parameters()}
    assert there.bring(["s1", "m0"], files) == first
    assert files.asked == ["m0", "s1"]
    assert weights == {name: p.data_ptr() for name, p in transformer.named_parameters()}


def test_a_subject_takes_the_place_of_a_motion(transformer) -> None:
    files, there = Files(transformer), ResidentLoras(transformer, 1)
    plain = through(transformer, None), through(transformer, None, "subject")
    there.bring(["m0"], files)
    name = there.bring(["s1"], files)["s1"]
    assert resident_loras(transformer) == [name]
    assert torch.equal(through(transformer, None), plain[0])
    assert not torch.allclose(through(transformer, name, "subject"), plain[1], atol=1e-3)


def test_two_hundred_swaps_leave_memory_flat(transformer) -> None:
    def alive() -> tuple[int, int]:
        gc.collect()
        return (
            sum(o.numel() for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter)),
            len(list(transformer.modules())),
        )

    made = {
        f"{kind}{n}": lora(transformer, n, name) for kind, name in (("m", "motion"), ("s", "subject")) for n in range(3)
    }
    there = ResidentLoras(transformer, 2)
    keys = [f"m{n % 3}" if n % 5 else f"s{n % 3}" for n in range(200)]
    for key in keys[:20]:
        there.bring([key], made.__getitem__)
    before = alive()
    for _ in range(10):
        for key in keys[:20]:
            there.bring([key], made.__getitem__)
    assert alive() == before


def test_what_does_not_fit_is_refused_and_changes_nothing(transformer) -> None:
    files, there = Files(transformer), ResidentLoras(transformer, 2)
    first = there.bring(["m0", "m1"], files)
    with pytest.raises(InputError, match="3 LoRAs at once, but max_resident_loras is 2"):
        there.bring(["m0", "m1", "m2"], files)
    with pytest.raises(InputError, match="another base model"):
        there.bring(["wide"], lambda key: lora(transformer, 0, scale=2))
    assert there.bring(["m0", "m1"], files) == first and files.asked == ["m0", "m1"]
