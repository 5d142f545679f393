"""The miniature's judge: measures a film in pixels, against its plan, independent of every trained model.

It finds each character by its sprite (`matching.find`), recognises the stage, names each motion by the law that fits the
character's track best, and says whether each region holds its own character and no other. Its figures on true clips and
on blurred ones are asserted in tests/engine/test_judge.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from pydantic import BaseModel, computed_field
from rich.table import Table

from engine.errors import InputError
from engine.miniature.matching import CAST, Detection, find, stage_of
from engine.miniature.motions import FRAMES
from engine.miniature.stages import HEIGHT, WIDTH
from engine.miniature.words import MOTIONS, STAGES
from engine.miniature.world import FRAMES_PER_KEYFRAME
from engine.plan import NONE, Box, Plan, Region, Scene

PIXELS_INSIDE = 0.8  # share of a character's found pixels that must lie in its region

# ---------------------------------------------------------------------------------------------------------- motions

TOLERANCE = np.array([1.5, 1.5, 8.0, 0.06])  # of x and y in pixels, angle in degrees, log of size: one unit of misfit
WORST = 9.0  # squared misfit of one measurement at most, so that a wrong find in one frame decides nothing
Shape = tuple[np.ndarray | float, float, float]  # what a law adds over time, times a factor between two limits
FIXED: Shape = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class _Law:
    """How a motion moves an actor: x, y in pixels, angle in degrees, log of size, each a constant plus a shape."""

    motion: str
    x: Shape = FIXED
    y: Shape = FIXED
    angle: Shape = FIXED
    size: Shape = FIXED


@cache
def _laws(frames: int) -> tuple[_Law, ...]:
    """The laws of motions.py over `frames`, with the factors that its lanes and sizes allow, and some room."""
    t = np.linspace(0, 1, frames)
    triangle = 2 * np.abs(2 * ((2 * t + 0.25) % 1) - 1) - 1
    sway = np.sin(4 * np.pi * t)
    arc = 1 - (2 * t - 1) ** 2
    bob = (-np.abs(sway), 0.0, 3.0)
    laws = [
        _Law("stands still"),
        _Law("walks left", (-t, 4, WIDTH), bob),
        _Law("walks right", (t, 4, WIDTH), bob),
        _Law("jumps up and down", y=(-np.abs(np.sin(2 * np.pi * t)), 7, 40)),
        _Law("flies up", (t, -6, 6), (-t, 7, HEIGHT)),
        _Law("falls down", (t, -6, 6), (t**1.5, 7, HEIGHT)),
        _Law("grows bigger", y=(-t, 0, 25), size=(np.log(0.5 + 0.8 * t), 0.4, 1.5)),
        _Law("shrinks", y=(t, 0, 25), size=(np.log(1.3 - 0.8 * t), 0.4, 1.5)),
    ]
    for way in (-t, t):
        laws += [
            _Law("dances", (np.sign(way[-1]) * sway, 0, 6), angle=(np.sign(way[-1]) * sway, 9, 40)),
            _Law("zigzags across", (way, 6, WIDTH), (triangle, 6, 20)),
            _Law("bounces across", (way, 6, WIDTH), (-np.abs(np.sin(3 * np.pi * t)), 8, 32)),
            _Law("swoops down", (way, 6, WIDTH), (arc, 8, 45)),
            *(_Law("spins around", angle=(540 * way, rate, rate)) for rate in (0.7, 0.85, 1, 1.15, 1.3)),
        ]
    for phase in np.arange(0, 2 * np.pi, np.pi / 8):
        turn = 2 * np.pi * t + phase
        laws.append(_Law("runs in circles", (np.cos(turn), 5, 20), (np.sin(turn), 5, 14)))
    return tuple(laws)


def _misfit(values: np.ndarray, seen: np.ndarray, shape: Shape, tolerance: float, circular: bool) -> np.ndarray:
    """Squared misfit (frames,) of one measurement to the best constant + factor * shape. Angles are `circular`, in
    degrees, and their constant is 0: actors start upright."""
    form = np.broadcast_to(shape[0], values.shape)
    weight = seen.astype(float)
    for _ in range(3):  # fitted again without what was far off
        mean = weight / weight.sum()
        centred = form if circular else form - mean @ form
        spread = mean @ centred**2
        factor = np.clip(mean @ (centred * values) / spread if spread else 0.0, *shape[1:])
        rest = values - factor * form
        rest = (rest + 180) % 360 - 180 if circular else rest - mean @ rest
        misfit = (rest / tolerance) ** 2
        weight = seen / (1 + misfit / 4)
    return np.minimum(misfit, WORST) * seen


def motion_of(track: Sequence[Detection | None]) -> str | None:
    """The one of words.MOTIONS whose law fits a character's track best, one detection a frame; None when it is seen in
    fewer than half of the frames."""
    seen = np.array([d is not None for d in track])
    if seen.sum() < max(len(track) / 2, 4):
        return None
    rows = np.array([(d.x, d.y, d.angle, np.log(d.size)) if d else (0.0,) * 4 for d in track]).T

    def misfit(law: _Law) -> float:
        shapes = zip(rows, (law.x, law.y, law.angle, law.size), TOLERANCE, strict=True)
        return sum(_misfit(row, seen, shape, unit, n == 2).sum() for n, (row, shape, unit) in enumerate(shapes))

    return min(_laws(len(track)), key=misfit).motion
