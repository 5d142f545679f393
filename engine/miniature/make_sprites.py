"""Draws the cast once from the Noto Color Emoji font: `python -m engine.miniature.make_sprites PATH_TO_FONT`.

The PNGs it writes are part of the repository (licence beside them), so nobody needs the font to use the miniature.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from engine.miniature.words import CHARACTERS

FOLDER = Path(__file__).parent / "sprites"
SIDE = 96  # pixels of the longer side; actors are drawn at 26-34, so growing ones stay sharp


def main(font_file: str) -> None:
    font = ImageFont.truetype(font_file, 109)  # the font's only bitmap size
    for name, glyph in CHARACTERS.items():
        image = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(image).text((10, 10), glyph, font=font, embedded_color=True)
        image = image.crop(image.getbbox())
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        square = Image.new("RGBA", (SIDE, SIDE))
        square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
        square.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
