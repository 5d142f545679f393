"""LoRA: which layers it adapts, how it is learned in a resident model, and its file, which is stock diffusers'.

    y = W x + dropout(Up(Down(x))),   Down ~ N(0, std 1/rank), Up = 0 at first, no further scale (method: released code)

A motion's LoRA is in the even blocks, a subject's or a training video's in the odd ones (paper, "interleaved"), so the
two never meet in a layer.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from engine.errors import InputError

Kind = Literal["motion", "subject"]
Weights = Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # layer -> Down (rank, in), Up (out, rank)
FIRST_BLOCK: dict[Kind, int] = {"motion": 0, "subject": 1}
LAYERS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
PREFIX = "transformer."


def adapted_layers(transformer: CogVideoXTransformer3DModel, kind: Kind) -> dict[str, tuple[int, int]]:
    """Name of each layer that a LoRA of this kind adapts -> its input and output width."""
    blocks = range(FIRST_BLOCK[kind], len(transformer.transformer_blocks), 2)
    names = [f"transformer_blocks.{block}.{layer}" for block in blocks for layer in LAYERS]
    layers = {name: transformer.get_submodule(name) for name in names}
    return {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}


class LoraBank(nn.Module):
    """`count` LoRAs of the same layers, of which each sample of a batch uses one.

    It is no part of the transformer: its only parameters are one flat float32 vector per LoRA, and it acts by hooks
    within `applied` alone. So the base cannot change, DeepSpeed sees nothing else, and a LoRA that no sample of a step
    uses gets no gradient at all.
    """

    def __init__(self, layers: Mapping[str, tuple[int, int]], rank: int, dropout: float, count: int = 1) -> None:
        super().__init__()
        self.layers, self.rank, self.dropout = dict(layers), rank, dropout
        self.loras = nn.ParameterList([nn.Parameter(self._initial()) for _ in range(count)])

    def _initial(self) -> torch.Tensor:
        parts = [
            part.flatten()
            for n_in, n_out in self.layers.values()
            for part in (torch.randn(self.rank, n_in) / self.rank, torch.zeros(n_out, self.rank))
        ]
        return torch.cat(parts)

    def _split(self, flat: torch.Tensor) -> Weights:
        """The layers' weights as views of (..., size), with the same leading axes."""
        lead, sizes = flat.shape[:-1], [self.rank * n for pair in self.layers.values() for n in pair]
        parts = iter(flat.split(sizes, -1))
        return {
            name: (next(parts).view(*lead, self.rank, n_in), next(parts).view(*lead, n_out, self.rank))
            for name, (n_in, n_out) in self.layers.items()
        }

    def weights(self, number: int = 0) -> Weights:
        return self._split(self.loras[number].detach())

    @contextmanager
    def applied(self, transformer: nn.Module, pick: Sequence[int], frozen: bool = False) -> Iterator[None]:
        """Within the block sample n of every batch passes through LoRA `pick[n]` too; `frozen`: it does not learn.

        With activation checkpointing the backward pass belongs into the block as well.
        """
        same = len(set(pick)) == 1
        flat = self.loras[pick[0]] if same else torch.stack([self.loras[number] for number in pick])
        weights = self._split(flat.detach() if frozen else flat)
        hooks = [transformer.get_submodule(name).register_forward_hook(self._adding(*w)) for name, w in weights.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _adding(self, down: torch.Tensor, up: torch.Tensor):
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            x_BLC = args[0]
            added = x_BLC @ down.to(x_BLC).mT @ up.to(x_BLC).mT
            return output + (F.dropout(added, self.dropout) if self.training and self.dropout else added)

        return hook


def save_lora(weights: Weights) -> bytes:
    """The safetensors file that `CogVideoXPipeline.save_lora_weights` writes; the same weights give the same bytes."""
    rank = next(iter(weights.values()))[0].shape[0]
    tensors = {
        f"{layer}.lora_{letter}.weight": tensor.detach().float().contiguous().cpu()
        for layer, pair in weights.items()
        for letter, tensor in zip("AB", pair, strict=True)
    }
    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(weights)).to_dict()
    config["target_modules"] = sorted(weights)  # peft keeps a set, whose order differs from process to process
    with TemporaryDirectory() as folder:
        CogVideoXPipeline.save_lora_weights(
            folder, transformer_lora_layers=tensors, transformer_lora_adapter_metadata=config
        )
        return _canonical((Path(folder) / "pytorch_lora_weights.safetensors").read_bytes())


def _canonical(file: bytes) -> bytes:
    """The same safetensors file with its header in a fixed order; safetensors writes metadata in a random one."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + file[end:]


def load_lora(
    transformer: CogVideoXTransformer3DModel, weights: bytes, name: str, hotswap: bool = False
) -> frozenset[str]:
    """Makes the LoRA of a safetensors file resident as adapter `name`. It does nothing until `region_loras` says where.

    With `hotswap` its weights are written over those of the adapter that has the name; both adapt the same layers.
    Returns the layers. Raises InputError for a file that is no such LoRA, or one of another base model.
    """
    tensors, metadata = _read(weights, name)
    for key, tensor in tensors.items():
        layer, letter = _layer_and_letter(key)
        try:
            module = transformer.get_submodule(layer)
            fits = tensor.shape[1] == module.in_features if letter == "A" else tensor.shape[0] == module.out_features
        except AttributeError:
            fits = False
        if not fits:
            raise InputError(f"LoRA {name}: {layer} does not fit this model; it was learned for another base model")
    before = {layer: list(layer.active_adapters) for layer in _tuner_layers(transformer)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are what we want
        transformer.load_lora_adapter(
            tensors, prefix=PREFIX[:-1], adapter_name=name, metadata=metadata, hotswap=hotswap
        )
    for layer in _tuner_layers(transformer):
        layer.set_adapter(before.get(layer, []), inference_mode=True)
    transformer.requires_grad_(False).eval()  # new modules are born in training mode
    return lora_layers(weights, name)


def lora_layers(weights: bytes, name: str) -> frozenset[str]:
    """The layers that a LoRA file adapts. Raises InputError for a file that is none."""
    return frozenset(_layer_and_letter(key)[0] for key in _read(weights, name)[0])


def remove_lora(transformer: CogVideoXTransformer3DModel, name: str) -> None:
    """Undoes `load_lora`; with the last adapter peft's wrappers go, too. Raises KeyError when it is not resident."""
    if name not in getattr(transformer, "peft_config", {}):
        raise KeyError(f"no adapter {name} is resident")
    for layer in _tuner_layers(transformer):
        layer.set_adapter([a for a in layer.active_adapters if a != name], inference_mode=True)
    transformer.delete_adapters(name)
    if not getattr(transformer, "peft_config", None):
        transformer.unload_lora()


def resident_loras(transformer: CogVideoXTransformer3DModel) -> list[str]:
    """The names of the adapters in memory, oldest first."""
    return list(getattr(transformer, "peft_config", {}))


def _layer_and_letter(key: str) -> tuple[str, str]:
    """ "transformer.x.to_q.lora_A.weight" -> ("x.to_q", "A")"""
    layer, letter = key.removeprefix(PREFIX).removesuffix(".weight").rsplit(".lora_", 1)
    return layer, letter


def _tuner_layers(transformer: nn.Module) -> list[BaseTunerLayer]:
    return [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]


def _read(weights: bytes, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    """Tensors and adapter settings of a LoRA file, or InputError."""
    try:
        tensors = load(weights)
        header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
        text = header.get("__metadata__", {}).get(LORA_ADAPTER_METADATA_KEY)
        metadata = json.loads(text) if text else None
    except (SafetensorError, ValueError) as error:
        raise InputError(f"LoRA {name}: not a safetensors file ({error}); pickled files are not read") from None
    wrong = [k for k in tensors if not k.startswith(PREFIX) or ".lora_" not in k]
    if wrong or not tensors:
        what = f"{wrong[0]!r} is" if wrong else "there are"
        raise InputError(f"LoRA {name}: {what} no LoRA weights of a CogVideoX transformer in diffusers' format")
    return tensors, metadata
