"""What each motion does to an actor: its centre, size, angle and facing over the frames of a clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.miniature.stages import GROUND, HEIGHT, WIDTH

FRAMES = 24  # a clip; 8 frames a second, 4 frames to a latent frame, one latent frame to a plan keyframe


@dataclass
class Track:
    """An actor's path. Arrays of shape (frames,): centre in pixels, scale (1 = its own size), angle in degrees
    (counter-clockwise), and whether it faces right."""

    x: np.ndarray
    y: np.ndarray
    scale: np.ndarray
    angle: np.ndarray
    right: np.ndarray

    def inside(self, size: float, margin: float = 1.0) -> bool:
        """Whether the actor of `size` pixels stays in the frame the whole time."""
        half = self.scale * size / 2
        across = (self.x - half >= -margin) & (self.x + half <= WIDTH + margin)
        return bool((across & (self.y - half >= -margin) & (self.y + half <= HEIGHT + margin)).all())

    def then(self, later: Track) -> Track:
        """This track followed by `later`, which is moved to begin where this one ends."""
        dx, dy = self.x[-1] - later.x[0], self.y[-1] - later.y[0]
        return Track(
            np.concatenate([self.x, later.x + dx]), np.concatenate([self.y, later.y + dy]),
            np.concatenate([self.scale, later.scale]), np.concatenate([self.angle, later.angle]),
            np.concatenate([self.right, later.right]),
        )  # fmt: skip


Lane = tuple[float, float]  # pixels left and right, between which the actor stays
Motion = Callable[[np.random.Generator, float, Lane, np.ndarray], Track]


def _track(t: np.ndarray, x, y, scale=1.0, angle=0.0, right: bool = False) -> Track:
    x, y, scale, angle = (np.broadcast_to(np.asarray(v, float), t.shape).copy() for v in (x, y, scale, angle))
    return Track(x, y, scale, angle, np.full(t.shape, right))


def _home(rng: np.random.Generator, size: float, lane: Lane) -> tuple[float, float]:
    """A place to stand in the lane: mostly on the ground, sometimes anywhere."""
    x = rng.uniform(lane[0] + size / 2, max(lane[1] - size / 2, lane[0] + size / 2))
    floor = GROUND - size / 2
    y = floor + rng.uniform(-4, 3) if rng.random() < 0.7 else rng.uniform(size / 2 + 1, floor)
    return x, y


def _across(rng: np.random.Generator, size: float, lane: Lane) -> tuple[float, float]:
    """Start and end of a way to the right: most of the lane, and at least half of it."""
    low, high = lane[0] + size / 2, max(lane[1] - size / 2, lane[0] + size / 2 + 1)
    length = (high - low) * rng.uniform(0.6, 1.0)
    start = rng.uniform(low, high - length)
    return start, start + length


def _still(rng, size, lane, t):
    return _track(t, *_home(rng, size, lane), right=rng.random() < 0.5)


def _walk(direction: int) -> Motion:
    def motion(rng, size, lane, t):
        a, b = _across(rng, size, lane)
        y = _home(rng, size, lane)[1]
        x = a + (b - a) * t if direction > 0 else b + (a - b) * t
        return _track(t, x, y - 1.5 * np.abs(np.sin(4 * np.pi * t)), right=direction > 0)

    return motion


def _jump(rng, size, lane, t):
    x, _ = _home(rng, size, lane)
    floor = GROUND - size / 2 + rng.uniform(-3, 3)
    height = min(rng.uniform(16, 24), floor - size / 2)
    return _track(t, x, floor - height * np.abs(np.sin(2 * np.pi * t)), right=rng.random() < 0.5)


def _vertical(up: bool) -> Motion:
    def motion(rng, size, lane, t):
        x, _ = _home(rng, size, lane)
        low, high = GROUND - size / 2 + rng.uniform(-3, 3), size / 2 + rng.uniform(0, 4)
        drift = rng.uniform(-3, 3) * t
        way = t if up else t**1.5  # falling gathers speed
        y = low + (high - low) * way if up else high + (low - high) * way
        return _track(t, x + drift, y, right=rng.random() < 0.5)

    return motion


def _dance(rng, size, lane, t):
    x, y = _home(rng, size, lane)
    swing = np.sin(4 * np.pi * t + rng.choice([0, np.pi]))
    return _track(t, x + 2.5 * swing, y, angle=22 * swing)


def _circle(rng, size, lane, t):
    rx = min(rng.uniform(12, 18), max((lane[1] - lane[0] - size) / 2, 6))
    x = rng.uniform(lane[0] + size / 2 + rx, max(lane[1] - size / 2 - rx, lane[0] + size / 2 + rx))
    ry = rng.uniform(8, 11)
    y = rng.uniform(size / 2 + ry, max(GROUND + 2 - size / 2 - ry, size / 2 + ry))
    phase = 2 * np.pi * (t + rng.random())
    track = _track(t, x + rx * np.cos(phase), y + ry * np.sin(phase))
    track.right = np.sin(phase) < 0
    return track


def _spin(rng, size, lane, t):
    x, y = _home(rng, size, lane)
    return _track(t, x, np.clip(y, size * 0.6, HEIGHT - size * 0.6), angle=rng.choice([-1, 1]) * 540 * t)


def _zigzag(rng, size, lane, t):
    a, b = _across(rng, size, lane)
    if rng.random() < 0.5:
        a, b = b, a
    middle = (size / 2 + GROUND - size / 2) / 2
    wave = 2 * np.abs(2 * ((2 * t + 0.25) % 1) - 1) - 1  # a triangle, two periods
    return _track(t, a + (b - a) * t, middle + 13 * wave, right=b > a)


def _resize(grow: bool) -> Motion:
    def motion(rng, size, lane, t):
        x, _ = _home(rng, size * 1.3, lane)
        scale = 0.5 + 0.8 * (t if grow else 1 - t)
        return _track(t, x, GROUND - size * scale / 2, scale=scale)

    return motion


def _bounce(rng, size, lane, t):
    a, b = _across(rng, size, lane)
    if rng.random() < 0.5:
        a, b = b, a
    floor = GROUND - size / 2
    return _track(t, a + (b - a) * t, floor - 22 * np.abs(np.sin(3 * np.pi * t)), right=b > a)


def _swoop(rng, size, lane, t):
    a, b = _across(rng, size, lane)
    if rng.random() < 0.5:
        a, b = b, a
    high, low = size / 2 + 2, GROUND - size / 2
    return _track(t, a + (b - a) * t, high + (low - high) * (1 - (2 * t - 1) ** 2), right=b > a)


_MOTIONS: dict[str, Motion] = {
    "stands still": _still, "walks left": _walk(-1), "walks right": _walk(1), "jumps up and down": _jump,
    "flies up": _vertical(True), "falls down": _vertical(False), "dances": _dance, "runs in circles": _circle,
    "spins around": _spin, "zigzags across": _zigzag, "grows bigger": _resize(True), "shrinks": _resize(False),
    "bounces across": _bounce, "swoops down": _swoop,
}  # fmt: skip


def make_track(motion: str, rng: np.random.Generator, size: float, lane: Lane, frames: int = FRAMES) -> Track:
    """A random track of the motion for an actor of `size` pixels that stays between the lane's two x positions."""
    return _MOTIONS[motion](rng, size, lane, np.linspace(0, 1, frames))
