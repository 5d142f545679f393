"""What a scene and a prior cost: operations, bytes, seconds and GB, from the model's shape and the machine's numbers.

docs/cost-model.md states every assumption and stands the results beside published figures. Until something was
measured these are the studio's guesses. Per forward of one branch, with L tokens of width d in n layers: 24 n d^2 L for
the linear layers (q, k, v, out and a feed-forward four times as wide) and 4 n d P for attention, where P counts the
pairs of tokens that attend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

BRANCHES = 2  # of guidance


@dataclass(frozen=True)
class Shape:
    """A video transformer's sizes, and a clip's: `visual` and `text` tokens (of one condition)."""

    layers: int
    heads: int
    head_dim: int
    visual: int
    text: int
    frames: int  # latent ones
    bytes_per_weight: int = 2

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    def of_frames(self, frames: int | None) -> Shape:
        """The same for a clip of fewer latent frames; None: the whole clip."""
        if frames is None:
            return self
        return replace(self, visual=self.visual * min(frames, self.frames) // self.frames, frames=frames)


@dataclass(frozen=True)
class Hardware:
    """One worker: peak FLOP/s at the model's dtype, the share of it that is reached, bytes/s to another worker, seconds
    that one exchange takes at least, and seconds to decode a clip."""

    name: str
    flops: float
    utilisation: float
    bandwidth: float
    latency: float
    decode: float


@dataclass(frozen=True)
class Cost:
    """Of one job. `flops` of all workers together; `bytes_sent`, `gigabytes` of each."""

    flops: float
    bytes_sent: float
    seconds: float
    gigabytes: float


H100 = Hardware("H100", flops=989e12, utilisation=0.33, bandwidth=300e9, latency=30e-6, decode=4.0)
# One core of the machine that the miniature was built on, by its scenes; the first measurement replaces the guess.
CPU_CORE = Hardware("CPU core", flops=100e9, utilisation=0.5, bandwidth=1e9, latency=1e-3, decode=1.0)
COGVIDEOX_2B = Shape(layers=30, heads=30, head_dim=64, visual=12 * 30 * 45, text=226, frames=12)
COGVIDEOX_5B = Shape(layers=42, heads=48, head_dim=64, visual=12 * 30 * 45, text=226, frames=12)


def forward_flops(shape: Shape, conditions: int, ulysses: int = 1) -> float:
    """One branch's forward on one worker of `ulysses`. Visual tokens hear 1.3 conditions on average (boxes overlap);
    text is on every worker, so its linear layers are not shared out."""
    text = conditions * shape.text
    tokens = math.ceil(shape.visual / ulysses) + text
    linear = 24 * shape.layers * shape.width**2 * tokens
    pairs = shape.visual * (shape.visual + 2 * 1.3 * shape.text) + conditions * shape.text**2
    return linear + 4 * shape.layers * shape.width * pairs / ulysses


def scene_cost(
    shape: Shape, conditions: int, steps: int, hardware: Hardware, guidance: int = 1, ulysses: int = 1
) -> Cost:
    """A scene of `conditions` captions by guidance x ulysses workers."""
    forwards = steps * BRANCHES // guidance  # of each worker
    flops = forward_flops(shape, conditions, ulysses)
    share = math.ceil(shape.visual / ulysses) * shape.width * shape.bytes_per_weight
    text = conditions * shape.text * shape.width * shape.bytes_per_weight
    exchanges = 4 * shape.layers if ulysses > 1 else 0  # q, k, v and the result, in every layer
    sent = forwards * exchanges * (share + text / 4) * (ulysses - 1) / ulysses
    waits = forwards * exchanges * hardware.latency + (steps * hardware.latency if guidance > 1 else 0)
    working = forwards * flops / (hardware.flops * hardware.utilisation)
    seconds = working + sent / hardware.bandwidth + waits + hardware.decode
    return Cost(flops * forwards * guidance * ulysses, sent, seconds, _gigabytes(shape, conditions, guidance, ulysses))


def prior_cost(shape: Shape, steps: int, batch: int, hardware: Hardware, passes: float = 1.8) -> Cost:
    """A prior of `steps` steps. A motion's step has 1.8 passes on average (method: one in five is temporal only), a
    subject's one. The base is frozen, so backward costs as much as forward, and checkpointing another forward."""
    flops = steps * batch * passes * 3 * forward_flops(shape, 1)
    kept = shape.layers * shape.visual * shape.width * shape.bytes_per_weight * batch / 1e9
    memory = _weights(shape) + kept + batch * _activations(shape, 1, 1)
    return Cost(flops, 0.0, flops / (hardware.flops * hardware.utilisation), memory)


def _weights(shape: Shape) -> float:
    """GB: 12 d^2 in the attention and feed-forward layers of a block, 12 more times the time embedding's 512 d."""
    block = 12 * shape.width**2 + 12 * 512 * shape.width
    return shape.layers * block * shape.bytes_per_weight / 1e9


def _activations(shape: Shape, conditions: int, ulysses: int) -> float:
    """GB of one branch at its peak: within a feed-forward (input, normed input, four times the width twice), about ten
    tensors of (tokens, width)."""
    tokens = math.ceil(shape.visual / ulysses) + conditions * shape.text
    return 10 * tokens * shape.width * shape.bytes_per_weight / 1e9


def _gigabytes(shape: Shape, conditions: int, guidance: int, ulysses: int) -> float:
    return _weights(shape) + (BRANCHES // guidance) * _activations(shape, conditions, ulysses)
