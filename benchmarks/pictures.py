"""Draws the pictures of the READMEs into docs/: `python -m benchmarks.pictures [FILM.mp4]`.

    docs/world.png              true clips of the miniature's world, one per base motion
    docs/miniature-curves.png   its training curves
    docs/film.png               two moments of every scene of a film

The last line printed is a JSON object with what was drawn.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from engine.miniature import words
from engine.miniature.settings import CURVES
from engine.miniature.world import FRAMES, random_clip
from engine.video import read_video

DOCS = Path(__file__).parent.parent / "docs"
FILM = Path("films/the-fox-and-the-robot/film.mp4")


def world() -> Path:
    """One row per base motion, six moments of a true clip each."""
    rows = []
    for n, motion in enumerate(words.BASE_MOTIONS):
        clip = random_clip(np.random.default_rng((5, n)), motions=(motion,), actors=1 + n % 2, changes=0)
        rows.append(np.concatenate(list(clip.frames[:: FRAMES // 6]), 1))
    return _save(np.concatenate(rows), "world.png", 2)


def film(file: Path) -> Path:
    """An early and a late moment of every scene, three scenes a row."""
    frames, _ = read_video(file)
    scenes = [frames[n : n + FRAMES] for n in range(0, len(frames), FRAMES)]
    tiles = [np.concatenate([scene[FRAMES // 6], scene[FRAMES * 5 // 6]], 1) for scene in scenes]
    gap = np.full((6, tiles[0].shape[1], 3), 255, np.uint8)
    half = -(-len(tiles) // 2)
    columns = [np.concatenate([x for tile in tiles[c : c + half] for x in (tile, gap)][:-1]) for c in (0, half)]
    height = max(c.shape[0] for c in columns)
    columns = [np.pad(c, ((0, height - c.shape[0]), (0, 0), (0, 0)), constant_values=255) for c in columns]
    picture = np.concatenate([columns[0], np.full((height, 6, 3), 255, np.uint8), columns[1]], 1)
    return _save(picture, "film.png", 1, width=1344)


def curves() -> Path:
    """Loss and reconstruction over minutes of training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def read(name: str) -> list[dict[str, float]]:
        return [json.loads(line) for line in (CURVES / f"{name}.jsonl").read_text().splitlines()]

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    vae, video = read("vae"), read("video")
    left.plot([p["minutes"] for p in vae], [p["psnr_db"] for p in vae], color="#2a6fbb", lw=1)
    left.set(title="VAE", xlabel="minutes of training", ylabel="PSNR on new clips, dB")
    for kind, colour in (("plain", "#999999"), ("regions", "#d1495b")):
        points = [(p["minutes"], p[kind]) for p in video if kind in p]
        right.plot(*zip(*points, strict=True), label=kind, color=colour, lw=1)
    right.set(title="Video model", xlabel="minutes of training", ylabel="weighted v-prediction loss", yscale="log")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.2)
    DOCS.mkdir(exist_ok=True)
    figure.savefig(DOCS / "miniature-curves.png", dpi=110)
    return DOCS / "miniature-curves.png"


def _save(pixels: np.ndarray, name: str, scale: int, width: int | None = None) -> Path:
    image = Image.fromarray(pixels)
    size = (width, round(image.height * width / image.width)) if width else (image.width * scale, image.height * scale)
    DOCS.mkdir(exist_ok=True)
    image.resize(size, Image.Resampling.LANCZOS).save(DOCS / name, optimize=True)
    return DOCS / name


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILM
    drawn = [world(), curves()]
    if file.exists():
        drawn.append(film(file))
    else:
        print(f"{file} is not there: docs/film.png stays as it is (make film makes it)", file=sys.stderr)
    print(json.dumps({"drawn": [str(path.relative_to(DOCS.parent)) for path in drawn]}))


if __name__ == "__main__":
    main()
