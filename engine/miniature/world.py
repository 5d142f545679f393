"""The miniature's world: clips of emoji actors on painted stages, with acts, boxes and masks that are true."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from engine.miniature import words
from engine.miniature.motions import FRAMES, Lane, Track, make_track
from engine.miniature.stages import HEIGHT, WIDTH, paint

KEYFRAMES = 6  # of a plan; 4 frames each
FRAMES_PER_KEYFRAME = FRAMES // KEYFRAMES
SPRITES = Path(__file__).parent / "sprites"
SIZE, SMALL_SIZE = 34.0, 28.0  # pixels of an actor's longer side; small when three share the stage
_PAD = 1.5  # sprites are drawn on a square this much larger, so that turning cuts no corner


@dataclass
class Actor:
    """One actor of a clip: `acts` are (motion, first frame, end frame); `boxes` (FRAMES, 4) left, top, right, bottom in
    0..1 of the frame; `masks` (FRAMES, HEIGHT, WIDTH) bool, its pixels that nobody in front of it hides."""

    name: str
    size: float
    acts: list[tuple[str, int, int]]
    track: Track
    boxes: np.ndarray
    masks: np.ndarray


@dataclass
class Clip:
    """`frames` uint8 (FRAMES, HEIGHT, WIDTH, 3), 8 frames a second; actors from back to front."""

    stage: str
    frames: np.ndarray
    actors: list[Actor]


@cache
def sprite(name: str, size: int, right: bool) -> Image.Image:
    """The actor's picture, RGBA with premultiplied alpha, its longer side `size` pixels, centred on a larger square."""
    image = Image.open(SPRITES / f"{name}.png").convert("RGBA")
    if right:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS)
    side = int(size * _PAD) + 2
    square = Image.new("RGBa", (side, side))
    square.paste(image, ((side - size) // 2, (side - size) // 2))
    return square


def draw(name: str, size: float, x: float, y: float, angle: float, right: bool) -> np.ndarray:
    """A whole transparent frame, float32 (HEIGHT, WIDTH, 4) premultiplied 0..1, with the actor centred at (x, y)."""
    image = sprite(name, round(size), right)
    zoom, turn, middle = round(size) / size, np.deg2rad(angle), image.width / 2
    c, s = np.cos(turn) * zoom, np.sin(turn) * zoom
    # PIL maps output to input: turn and scale about the actor's centre
    matrix = (c, -s, middle - c * x + s * y, s, c, middle - s * x - c * y)
    bands = [
        b.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR) for b in image.split()
    ]
    return np.stack([np.asarray(b) for b in bands], -1).astype(np.float32) / 255


def make_clip(stage: str, cast: list[tuple[str, float, list[tuple[str, int, int]], Track]]) -> Clip:
    """Draws a clip from (name, size, acts, track) per actor, from back to front."""
    frames = np.repeat(paint(stage)[None].astype(np.float32), FRAMES, 0)
    actors: list[Actor] = []
    for name, size, acts, track in cast:
        layers = np.stack([
            draw(name, size * track.scale[f], track.x[f], track.y[f], track.angle[f], bool(track.right[f]))
            for f in range(FRAMES)
        ])  # fmt: skip
        alpha = layers[..., 3:]
        frames = frames * (1 - alpha) + layers[..., :3] * 255
        masks = alpha[..., 0] > 0.5
        boxes = np.stack([_box(mask) for mask in masks])
        for behind in actors:
            behind.masks &= ~masks
        actors.append(Actor(name, size, acts, track, boxes, masks))
    return Clip(stage, frames.round().clip(0, 255).astype(np.uint8), actors)


def _box(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros(4, np.float32)
    edges = (columns[0] / WIDTH, rows[0] / HEIGHT, (columns[-1] + 1) / WIDTH, (rows[-1] + 1) / HEIGHT)
    return np.array(edges, np.float32)


def random_clip(
    rng: np.random.Generator,
    characters: tuple[str, ...] = tuple(words.BASE_CHARACTERS),
    motions: tuple[str, ...] = words.BASE_MOTIONS,
    actors: int | None = None,
    changes: float = 0.2,
) -> Clip:
    """A random clip of the world: 0-3 actors (mostly 1 or 2), each in its lane or now and then across another's;
    with probability `changes` an actor changes its motion at a keyframe."""
    stage = str(rng.choice(list(words.STAGES)))
    count = actors if actors is not None else int(rng.choice(4, p=[0.02, 0.46, 0.44, 0.08]))
    names = [str(n) for n in rng.choice(list(characters), count, replace=False)]
    lanes, size, cast = _lanes(rng, count), SIZE if count < 3 else SMALL_SIZE, []
    for name, lane in zip(names, lanes, strict=True):
        cast.append((name, size, *_random_act(rng, motions, size, lane, changes)))
    return make_clip(stage, [cast[i] for i in rng.permutation(count)])


def _lanes(rng: np.random.Generator, count: int) -> list[Lane]:
    if count < 2 or rng.random() < 0.12:  # the whole stage for each: paths may cross
        return [(0.0, float(WIDTH))] * count
    cuts = [0.0, *(WIDTH * (i + 1) / count + rng.uniform(-6, 6) for i in range(count - 1)), float(WIDTH)]
    return [(cuts[i], cuts[i + 1]) for i in range(count)]


def _random_act(
    rng: np.random.Generator, motions: tuple[str, ...], size: float, lane: Lane, changes: float
) -> tuple[list[tuple[str, int, int]], Track]:
    wide = lane[1] - lane[0] >= WIDTH * 0.6
    if rng.random() < changes:
        for _ in range(8):  # a second motion that stays on stage; else one motion is fine
            split = int(rng.integers(2, KEYFRAMES - 1)) * FRAMES_PER_KEYFRAME
            first, second = (
                (str(m) for m in rng.choice(list(motions), 2, replace=False)) if len(motions) > 1 else ("", "")
            )
            if not first:
                break
            track = make_track(first, rng, size, lane, split).then(make_track(second, rng, size, lane, FRAMES - split))
            if track.inside(size):
                return [(first, 0, split), (second, split, FRAMES)], track
    pool = [
        m for m in motions if wide or m not in ("runs in circles", "zigzags across", "bounces across", "swoops down")
    ]
    motion = str(rng.choice(pool or list(motions)))
    return [(motion, 0, FRAMES)], make_track(motion, rng, size, lane)
