"""The eight painted stages, drawn by code at four times the size and scaled down, so that edges are smooth."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

HEIGHT, WIDTH = 64, 112  # pixels of a frame
GROUND = 58  # where standing feet are, pixels from the top
_SCALE = 4

Painter = Callable[[ImageDraw.ImageDraw, Callable[..., list[int]]], None]


def _forest(draw: ImageDraw.ImageDraw, s: Callable[..., list[int]]) -> None:
    draw.rectangle(s(0, 0, 112, 44), fill="#a9dfa5")
    for x, top in ((-4, 10), (12, 16), (28, 6), (46, 14), (62, 8), (78, 16), (94, 5), (106, 13)):
        draw.rectangle(s(x + 5, 34, x + 9, 49), fill="#6b4a2b")
        draw.polygon(s(x - 4, 41, x + 7, top, x + 18, 41), fill="#1f7a3a")
        draw.polygon(s(x - 1, 30, x + 7, top - 4, x + 15, 30), fill="#2b8f49")
    draw.rectangle(s(0, 47, 112, 64), fill="#3f9a3a")


def _beach(draw: ImageDraw.ImageDraw, s: Callable[..., list[int]]) -> None:
    draw.rectangle(s(0, 0, 112, 28), fill="#8fd3ff")
    draw.ellipse(s(88, 4, 102, 18), fill="#fff3a0")
    draw.rectangle(s(0, 28, 112, 42), fill="#1c74c8")
    for x in (4, 34, 66, 92):
        draw.rectangle(s(x, 34, x + 14, 35), fill="#79b7ea")
    draw.rectangle(s(0, 42, 112, 64), fill="#efd9a0")


def _night(draw: ImageDraw.ImageDraw, s: Callable[..., list[int]]) -> None:
    draw.rectangle(s(0, 0, 112, 46), fill="#15173f")
    draw.ellipse(s(10, 5, 24, 19), fill="#f4efc4")
    draw.ellipse(s(15, 3, 27, 15), fill="#15173f")
    for x, y in ((36, 8), (48, 20), (57, 5), (68, 14), (79, 25), (86, 7), (97, 17), (105, 9), (30, 27), (5, 30)):
        draw.ellipse(s(x, y, x + 1.6, y + 1.6), fill="#ffffff")
    draw.rectangle(s(0, 46, 112, 64), fill="#2a3d38")


def _snow(draw: ImageDraw.ImageDraw, s: Callable[..., list[int]]) -> None:
    draw.rectangle(s(0, 0, 112, 42), fill="#c9ddf2")
    for x, top in ((-10, 14), (24, 6), (66, 11)):
        draw.polygon(s(x, 42, x + 26, top, x + 52, 42), fill="#8ea6c8")
        draw.polygon(s(x + 19, top + 8, x + 26, top, x + 33, top + 8), fill="#ffffff")
    draw.rectangle(s(0, 42, 112, 64), fill="#f5f9ff")


def _desert(draw: ImageDraw.ImageDraw, s: Callable[..., list[int]]) -> None:
    draw.rectangle(s(0, 0, 112, 42), fill="#ffb56b")
    draw.ellipse(s(14, 8, 32, 26), fill="#ffe08a")
    draw.ellipse(s(44, 28, 130, 70), fill="#d98a4a")
    draw.rectangle(s(0, 42, 112, 64), fill="#c8763a")
    for x, y in ((6, 26), (100, 22)):
        draw.rounded_rectangle(s(x, y, x + 4, 46), 6, fill="#3d7a3c")
        draw.rounded_rectangle(s(x - 5, y + 6, x - 2, y + 14), 5, fill="#3d7a3c")
        draw.rectangle(s(x - 4, y + 12, x, y + 14), fill="#3d7a3c")


def _city(draw: ImageDraw.ImageDraw, s: Callable[..., list[int]]) -> None:
    draw.rectangle(s(0, 0, 112, 46), fill="#b9c3d6")
    houses = ((0, 16, 16), (18, 26, 12), (32, 10, 18), (53, 22, 14), (69, 6, 16), (87, 20, 12), (101, 12, 11))
    for n, (x, top, width) in enumerate(houses):
        draw.rectangle(s(x, top, x + width, 46), fill=("#6a5b7b", "#8a5a6e")[n % 2])
        for row in range(top + 3, 42, 6):
            for column in range(x + 2, x + width - 3, 5):
                draw.rectangle(s(column, row, column + 2, row + 3), fill="#ffe9a3")
    draw.rectangle(s(0, 46, 112, 64), fill="#55555f")
    for x in (8, 40, 72, 104):
        draw.rectangle(s(x, 60, x + 12, 61), fill="#d9d9d9")


def _meadow(draw: ImageDraw.ImageDraw, s: Callable[..., list[int]]) -> None:
    draw.rectangle(s(0, 0, 112, 40), fill="#bfeaff")
    for x, y in ((12, 6), (58, 12), (88, 4)):
        draw.ellipse(s(x, y, x + 12, y + 7), fill="#ffffff")
        draw.ellipse(s(x + 6, y - 3, x + 18, y + 7), fill="#ffffff")
    draw.ellipse(s(-20, 28, 60, 70), fill="#9fd45f")
    draw.ellipse(s(40, 30, 140, 74), fill="#8cc850")
    draw.rectangle(s(0, 46, 112, 64), fill="#7dbb42")
    for n, x in enumerate(range(4, 112, 12)):
        draw.ellipse(s(x, 59 + n % 2, x + 3, 62 + n % 2), fill=("#ff6fa8", "#ffffff", "#ffd23f")[n % 3])


def _sea(draw: ImageDraw.ImageDraw, s: Callable[..., list[int]]) -> None:
    for y in range(0, 52, 4):  # light fades with depth
        draw.rectangle(s(0, y, 112, y + 4), fill=(20, 190 - y * 2, 200 - y))
    for x in (6, 20, 86, 102):
        draw.line(s(x, 56, x + 3, 46, x - 1, 38, x + 3, 28), fill="#0d6b52", width=10)
    draw.ellipse(s(-10, 46, 60, 80), fill="#c9a86a")
    draw.ellipse(s(40, 48, 130, 84), fill="#bd9a5c")
    draw.rectangle(s(0, 58, 112, 64), fill="#c9a86a")


_PAINTERS: dict[str, Painter] = {
    "forest": _forest, "beach": _beach, "night": _night, "snow": _snow,
    "desert": _desert, "city": _city, "meadow": _meadow, "sea": _sea,
}  # fmt: skip


@cache
def paint(stage: str) -> np.ndarray:
    """The stage as uint8 (HEIGHT, WIDTH, 3). The array is shared: copy before drawing on it."""
    image = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * _SCALE))
    _PAINTERS[stage](ImageDraw.Draw(image), lambda *numbers: [round(n * _SCALE) for n in numbers])
    pixels = np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)).copy()
    pixels.setflags(write=False)
    return pixels
