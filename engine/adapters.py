"""Region LoRA: a stock peft adapter that acts on its region's tokens alone (paper, section 3.3).

    y = W x + sum_j m_j * Up_j(Down_j(m_j * x)),   m_j in {0, 1} per token

Down and Up are linear and m_j is 0 or 1, so it is enough to multiply Down's output by m_j: a forward hook on peft's
`lora_A[name]`. Every adapted layer sees the tokens as [text of all conditions | visual], in attention and feed-forward;
with Ulysses as [text | this worker's visual tokens], and the masks are cut likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from engine.parallel import SequenceParallel


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
