"""Region LoRA: a stock peft adapter that acts on its region's tokens alone (paper, section 3.3).

    y = W x + sum_j m_j * Up_j(Down_j(m_j * x)),   m_j in {0, 1} per token

Down and Up are linear and m_j is 0 or 1, so it is enough to multiply Down's output by m_j: a forward hook on peft's
`lora_A[name]`. Every adapted layer sees the tokens as [text of all conditions | visual], in attention and feed-forward;
with Ulysses as [text | this worker's visual tokens], and the masks are cut likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from engine.errors import InputError
from engine.lora import check_lora, load_lora, remove_lora
from engine.parallel import SequenceParallel

MAX_RESIDENT_LORAS = 16


class Slot(NamedTuple):
    """An adapter of the transformer and the layers it adapts."""

    adapter: str
    layers: frozenset[str]


class ResidentLoras:
    """The LoRAs in a transformer's memory, by key: at most `max_resident_loras`, so that a scene whose LoRAs are there
    begins at once and memory stays bounded. The least recently used makes room; where it adapts the same layers its
    weights are overwritten in place (hotswap)."""

    def __init__(
        self, transformer: nn.Module, max_resident_loras: int = MAX_RESIDENT_LORAS, base: str | None = None
    ) -> None:
        self.transformer, self.limit, self.base = transformer, max_resident_loras, base
        self.slots: dict[str, Slot] = {}  # the least recently used first
        self._made = 0

    def bring(self, keys: Sequence[str], fetch: Callable[[str], bytes]) -> dict[str, str]:
        """Makes these LoRAs resident, those that are missing by `fetch`; key -> its adapter, for `region_loras`.

        Raises InputError when they are more than fit, or when one is no LoRA for this model.
        """
        keys = list(dict.fromkeys(keys))
        if len(keys) > self.limit:
            raise InputError(
                f"the scene uses {len(keys)} LoRAs at once, but max_resident_loras is {self.limit}; split the scene"
            )
        for key in [key for key in keys if key in self.slots]:
            self.slots[key] = self.slots.pop(key)
        for key in keys:
            if key not in self.slots:
                self._load(key, fetch(key), keep=keys)
        return {key: self.slots[key].adapter for key in keys}

    def _load(self, key: str, weights: bytes, keep: Sequence[str]) -> None:
        layers = check_lora(self.transformer, weights, key, self.base)
        adapter, swap = f"lora-{self._made}", False
        if len(self.slots) >= self.limit:
            oldest = self.slots.pop(next(other for other in self.slots if other not in keep))
            if swap := layers == oldest.layers:
                adapter = oldest.adapter
            else:
                remove_lora(self.transformer, oldest.adapter)
        load_lora(self.transformer, weights, adapter, swap)
        self.slots[key], self._made = Slot(adapter, layers), self._made + 1


@contextmanager
def region_loras(
    transformer: nn.Module, masks: Mapping[str, torch.Tensor], sequence: SequenceParallel | None = None
) -> Iterator[None]:
    """Within the block the adapters named in `masks` are active, each on its own tokens, and no others are.

    `masks`: adapter name -> 0/1 of shape (tokens, 1) or (batch, tokens, 1), over all tokens; `RegionMap.token_mask`
    makes them. With an empty mapping every adapter is off. `sequence` is the scene's (`Parallel.sequence`): several
    workers then share its tokens. Raises KeyError for an adapter that no layer has.
    """
    if sequence is not None:
        masks = {name: sequence.my_mask(mask) for name, mask in masks.items()}
    layers = [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]
    missing = set(masks) - {name for layer in layers for name in layer.lora_A}
    if missing:
        raise KeyError(f"no layer holds the adapter {', '.join(sorted(missing))}; load it before it is used")
    hooks, before = [], [(layer, list(layer.active_adapters)) for layer in layers]
    try:
        for layer in layers:
            active = [name for name in masks if name in layer.lora_A]
            layer.set_adapter(active, inference_mode=True)
            hooks += [layer.lora_A[name].register_forward_hook(_masking(masks[name])) for name in active]
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, active in before:
            layer.set_adapter(active, inference_mode=True)


def _masking(mask: torch.Tensor):
    def hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output * mask.to(output)

    return hook
