"""LoRA: which layers it adapts, how it is learned in a resident model, and its file, which is stock diffusers'.

    y = W x + dropout(Up(Down(x))),   Down ~ N(0, std 1/rank), Up = 0 at first, no further scale (method: released code)

A motion's LoRA is in the even blocks, a subject's or a training video's in the odd ones (paper, "interleaved"; the
ablation's other placement is a half each), so the two never meet in a layer.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from engine.errors import InputError

Kind = Literal["motion", "subject"]
Placement = Literal["interleaved", "halves"]
Weights = Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # layer -> Down (rank, in), Up (out, rank)
HALF: dict[Kind, int] = {"motion": 0, "subject": 1}  # of the blocks
LAYERS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
PREFIX = "transformer."


def adapted_layers(
    transformer: CogVideoXTransformer3DModel, kind: Kind, placement: Placement = "interleaved"
) -> dict[str, tuple[int, int]]:
    """Name of each layer that a LoRA of this kind adapts -> its input and output width."""
    count = len(transformer.transformer_blocks)
    first, second = range(count // 2), range(count // 2, count)
    blocks = range(HALF[kind], count, 2) if placement == "interleaved" else (first, second)[HALF[kind]]
    names = [f"transformer_blocks.{block}.{layer}" for block in blocks for layer in LAYERS]
    layers = {name: transformer.get_submodule(name) for name in names}
    return {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}


class LoraBank(nn.Module):
    """LoRAs of the same layers, of which each sample of a batch uses one: so several priors learn in one batch.

    It is no part of the transformer: its only parameters are one flat float32 vector per LoRA, and it acts by hooks
    within `applied` alone. So the base cannot change, DeepSpeed sees nothing else, and a LoRA that no sample of a step
    uses gets no gradient at all.

    `sources`: a LoRA for each, whose first weights it gives; the same generator may stand there several times.
    """

    def __init__(
        self,
        layers: Mapping[str, tuple[int, int]],
        rank: int,
        dropout: float = 0.0,
        sources: Sequence[torch.Generator | None] = (None,),
    ) -> None:
        super().__init__()
        self.layers, self.rank, self.dropout = dict(layers), rank, dropout
        self.loras = nn.ParameterList([nn.Parameter(self._initial(source)) for source in sources])

    def _initial(self, source: torch.Generator | None) -> torch.Tensor:
        parts = [
            part.flatten()
            for n_in, n_out in self.layers.values()
            for part in (torch.randn(self.rank, n_in, generator=source) / self.rank, torch.zeros(n_out, self.rank))
        ]
        return torch.cat(parts)

    def copy(self) -> LoraBank:
        """The same LoRAs as they are now, which do not learn."""
        other = LoraBank(self.layers, self.rank, self.dropout, ())
        other.loras = nn.ParameterList([nn.Parameter(lora.detach().clone(), False) for lora in self.loras])
        return other

    def split(self, flat: torch.Tensor) -> Weights:
        """A LoRA's flat vector -> its layers' weights, as views of (..., size) with the same leading axes."""
        lead, sizes = flat.shape[:-1], [self.rank * n for pair in self.layers.values() for n in pair]
        parts = iter(flat.split(sizes, -1))
        return {
            name: (next(parts).view(*lead, self.rank, n_in), next(parts).view(*lead, n_out, self.rank))
            for name, (n_in, n_out) in self.layers.items()
        }

    def weights(self, number: int = 0) -> Weights:
        return self.split(self.loras[number].detach())

    @contextmanager
    def applied(
        self, transformer: nn.Module, pick: Sequence[int], frozen: bool = False, seeds: Sequence[int] = ()
    ) -> Iterator[None]:
        """Within the block sample n of every batch passes through LoRA `pick[n]` too; `frozen`: it does not learn.

        That is region LoRA's token mask with a batch axis (`region_loras`, masks of (batch, tokens, 1)): each LoRA is
        1 on its samples' tokens and 0 on all others. Here the zeros are not multiplied: neighbours that share a LoRA
        are one matrix, and there is one for each LoRA.

        `seeds`, one for each sample: dropout's; without them there is none. The same seeds drop the same, so what
        activation checkpointing computes again is what it was; its backward pass belongs into the block as well.
        """
        runs = [number for number, _ in groupby(pick)]
        if [number for number in runs for _ in range(len(pick) // len(runs))] != list(pick):
            runs = list(pick)
        flat = torch.stack([self.loras[number] for number in runs])
        weights = self.split(flat.detach() if frozen else flat)
        hooks = [
            transformer.get_submodule(name).register_forward_hook(self._adding(*pair, [seed + n for seed in seeds]))
            for n, (name, pair) in enumerate(weights.items())
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _adding(self, down: torch.Tensor, up: torch.Tensor, seeds: Sequence[int]):
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            x_BLC = args[0]
            x_RTC = x_BLC.reshape(len(down), -1, x_BLC.shape[-1])  # runs, the tokens of their samples
            added = (x_RTC @ down.to(x_BLC).mT @ up.to(x_BLC).mT).view_as(output)
            return output + (added * _kept(added, self.dropout, seeds) if seeds and self.dropout else added)

        return hook


def _kept(x_BLC: torch.Tensor, dropout: float, seeds: Sequence[int]) -> torch.Tensor:
    """What dropout multiplies each sample by: 0, or 1 / (1 - dropout)."""
    device = x_BLC.device
    masks = [
        torch.empty(x_BLC.shape[1:], device=device).bernoulli_(
            1 - dropout, generator=torch.Generator(device).manual_seed(seed)
        )
        for seed in seeds
    ]
    return torch.stack(masks).to(x_BLC) / (1 - dropout)


def save_lora(weights: Weights, base: str | None = None) -> bytes:
    """The safetensors file that `CogVideoXPipeline.save_lora_weights` writes; the same weights give the same bytes.

    `base` names the model that it was learned for (`Bundle.base`), in peft's own field.
    """
    rank = next(iter(weights.values()))[0].shape[0]
    tensors = {
        f"{layer}.lora_{letter}.weight": tensor.detach().float().contiguous().cpu()
        for layer, pair in weights.items()
        for letter, tensor in zip("AB", pair, strict=True)
    }
    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(weights)).to_dict()
    config["base_model_name_or_path"] = base
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


def check_lora(
    transformer: CogVideoXTransformer3DModel, weights: bytes, name: str, base: str | None = None
) -> frozenset[str]:
    """The layers that a LoRA file adapts. Raises InputError for a file that is none, or is one of another base model:
    of other sizes, or learned for another `base` (the transformer's own name, held against the one in the file).
    """
    tensors, metadata = _read(weights, name)
    learned_for = (metadata or {}).get(f"{PREFIX}base_model_name_or_path")
    if base and learned_for and learned_for != base:
        raise InputError(f"LoRA {name}: it was learned for another base model ({learned_for}; this is {base})")
    for key, tensor in tensors.items():
        layer, letter = _layer_and_letter(key)
        try:
            module = transformer.get_submodule(layer)
            fits = tensor.shape[1] == module.in_features if letter == "A" else tensor.shape[0] == module.out_features
        except AttributeError:
            fits = False
        if not fits:
            raise InputError(f"LoRA {name}: {layer} does not fit this model; it was learned for another base model")
    return frozenset(_layer_and_letter(key)[0] for key in tensors)


def load_lora(transformer: CogVideoXTransformer3DModel, weights: bytes, name: str, hotswap: bool = False) -> None:
    """Makes the LoRA of a safetensors file resident as adapter `name`. It does nothing until `region_loras` says where.

    With `hotswap` its weights are written over those of the adapter that has the name; both adapt the same layers.
    Raises InputError for a file that is no LoRA of this model.
    """
    check_lora(transformer, weights, name)
    tensors, metadata = _read(weights, name)
    before = {layer: list(layer.active_adapters) for layer in _tuner_layers(transformer)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are what we want
        transformer.load_lora_adapter(
            tensors, prefix=PREFIX[:-1], adapter_name=name, metadata=metadata, hotswap=hotswap
        )
    for layer in _tuner_layers(transformer):
        layer.set_adapter(before.get(layer, []), inference_mode=True)
    transformer.requires_grad_(False).eval()  # new modules are born in training mode


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
