"""What is kept of a job under way, so that another process goes on with it to the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

SAVE_STEPS = 5  # of denoising
SAVE_PRIOR_STEPS = 25  # of learning
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW remembers of each weight


@dataclass(frozen=True)
class Saves:
    """Where a job's unfinished work is kept. `load` gives what `save` got last, or None."""

    load: Callable[[], bytes | None] = lambda: None
    save: Callable[[bytes], None] = lambda data: None


NOWHERE = Saves()


def pack(tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> bytes:
    return save({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, {"about": json.dumps(about)})


def unpack(data: bytes | None) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """What was packed; None for nothing, and for what is no such thing."""
    if not data:
        return None
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return tensors, json.loads(header["__metadata__"]["about"])
    except (SafetensorError, ValueError, KeyError):
        return None


def pack_learning(
    weights: Mapping[str, nn.ParameterList], optimizers: Mapping[str, torch.optim.Optimizer], about: Mapping[str, Any]
) -> bytes:
    """Weights of lists of parameters, and the moments of those that have an optimizer."""
    tensors = {}
    for name, parameters in weights.items():
        for n, parameter in enumerate(parameters):
            tensors[f"{name}.{n}.weight"] = parameter
            moments = optimizers[name].state.get(parameter, {}) if name in optimizers else {}
            tensors |= {f"{name}.{n}.{m}": torch.as_tensor(moments[m]) for m in MOMENTS if m in moments}
    return pack(tensors, about)


@torch.no_grad()
def restore_learning(
    data: bytes | None, weights: Mapping[str, nn.ParameterList], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Any] | None:
    """Puts back what `pack_learning` kept; its `about`, or None when there is nothing to go on from."""
    found = unpack(data)
    if found is None:
        return None
    tensors, about = found
    for name, parameters in weights.items():
        for n, parameter in enumerate(parameters):
            parameter.copy_(tensors[f"{name}.{n}.weight"])
            moments = {m: tensors[f"{name}.{n}.{m}"] for m in MOMENTS if f"{name}.{n}.{m}" in tensors}
            if moments:
                own = optimizers[name].state[parameter]
                own |= {m: t if m == "step" else t.to(parameter.device) for m, t in moments.items()}
    return about
