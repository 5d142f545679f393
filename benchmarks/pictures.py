"""Draws the pictures of the READMEs into docs/: `python -m benchmarks.pictures [FILM.mp4]`.

    docs/world.png              true clips of the miniature's world, one per base motion
    docs/miniature-curves.png   its training curves
    docs/film.webp              every scene of a film, all playing side by side

The last line printed is a JSON object with what was drawn.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from engine.miniature import words
from engine.miniature.settings import CURVES, Checkpoint
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
    """An animated picture: all scenes at once, three in a row, each a loop."""
    frames, fps = read_video(file)
    scenes = [frames[n : n + FRAMES] for n in range(0, len(frames), FRAMES)]
    width, gap = 288, 6
    height = round(frames.shape[1] * width / frames.shape[2])
    rows = -(-len(scenes) // 3)
    moments = []
    for n in range(FRAMES):
        sheet = Image.new("RGB", (3 * (width + gap) - gap, rows * (height + gap) - gap), "white")
        for k, scene in enumerate(scenes):
            still = Image.fromarray(scene[n]).resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(still, (k % 3 * (width + gap), k // 3 * (height + gap)))
        moments.append(sheet)
    DOCS.mkdir(exist_ok=True)
    options = {"save_all": True, "append_images": moments[1:], "duration": round(1000 / fps), "loop": 0, "quality": 80}
    moments[0].save(DOCS / "film.webp", **options)
    return DOCS / "film.webp"


def curves() -> Path:
    """Reconstruction over minutes, losses over steps: the video models were trained on machines of different speed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def read(name: str) -> list[dict[str, float]]:
        return [json.loads(line) for line in (CURVES / f"{name}.jsonl").read_text().splitlines()]

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    vae = read("vae")
    left.plot([p["minutes"] for p in vae], [p["psnr_db"] for p in vae], color="#2a6fbb", lw=1)
    left.set(title="VAE", xlabel="minutes of training", ylabel="PSNR on new clips, dB")
    for checkpoint, style in ((Checkpoint.plain, ":"), (Checkpoint.default, "-")):
        video = read(checkpoint)
        for kind, colour in (("plain", "#999999"), ("regions", "#d1495b")):
            points = [(p["step"], p[kind]) for p in video if kind in p]
            if points:
                label = f"{checkpoint}: {'through regions' if kind == 'regions' else 'whole captions'}"
                right.plot(*zip(*points, strict=True), style, label=label, color=colour, lw=1)
    right.set(title="Video models", xlabel="steps of training", ylabel="weighted v-prediction loss", yscale="log")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.2)
    DOCS.mkdir(exist_ok=True)
    figure.savefig(DOCS / "miniature-curves.png", dpi=110)
    return DOCS / "miniature-curves.png"


def _save(pixels: np.ndarray, name: str, scale: int) -> Path:
    image = Image.fromarray(pixels)
    size = (image.width * scale, image.height * scale)
    DOCS.mkdir(exist_ok=True)
    image.resize(size, Image.Resampling.LANCZOS).save(DOCS / name, optimize=True)
    return DOCS / name


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILM
    drawn = [world(), curves()]
    if file.exists():
        drawn.append(film(file))
    else:
        print(f"{file} is not there: docs/film.webp stays as it is (make film makes it)", file=sys.stderr)
    print(json.dumps({"drawn": [str(path.relative_to(DOCS.parent)) for path in drawn]}))


if __name__ == "__main__":
    main()
