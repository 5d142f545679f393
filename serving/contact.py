"""The contact sheet: a whole film on one PNG, and what it shares with the storyboard page.

Both show six stills a scene, one for each keyframe, with the plan's boxes over them, and both colour a region alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.plan import KEYFRAMES, NONE, Box, Plan, Region, Scene

# Bright enough for every stage and for dark text upon them; the first four also differ to colour-blind eyes.
PALETTE = ("#ff7a5c", "#48c9f2", "#ffd447", "#c194ff", "#66e08f", "#ff94cf", "#ffa630", "#b9c6ff")

STILL_WIDTH = 280  # pixels, as are all lengths below
MARGIN, GAP, ROW_GAP = 40, 10, 36
TITLE_SIZE, HEAD_SIZE, TEXT_SIZE = 30, 19, 16
LINE = 24  # of the captions
SWATCH = 11
SHEET_WIDTH = 2 * MARGIN + KEYFRAMES * STILL_WIDTH + (KEYFRAMES - 1) * GAP
TITLE_HEIGHT = MARGIN + 58
HEAD_HEIGHT = 34

PAPER, INK, FAINT = "#131416", "#f1f0ec", "#93949a"
_SHADOW = "#00000090"  # around a box, so that it shows on snow as well


def region_colours(plan: Plan) -> dict[str, tuple[str, ...]]:
    """By scene id, a colour for each of its regions. An entity keeps its colour through the film; regions of one scene
    differ as long as the palette lasts, even when they share an entity."""
    home: dict[str, int] = {}  # entity -> index into the palette
    colours: dict[str, tuple[str, ...]] = {}
    for scene in plan.scenes:
        used: list[int] = []
        for region in scene.regions:
            index = home.setdefault(region.entity.casefold(), len(home) % len(PALETTE))
            if index in used:
                index = min(range(len(PALETTE)), key=lambda i: (used.count(i), i in home.values(), i))
            used.append(index)
        colours[scene.id] = tuple(PALETTE[index] for index in used)
    return colours


def keyframe_stills(frames: np.ndarray) -> np.ndarray:
    """The middle frame of each keyframe: (KEYFRAMES, H, W, 3) out of frames (T, H, W, 3)."""
    return frames[[(2 * keyframe + 1) * len(frames) // (2 * KEYFRAMES) for keyframe in range(KEYFRAMES)]]


def region_label(region: Region) -> str:
    """What a region is called where there is little room."""
    return next((words for words in (region.entity, region.motion) if words != NONE), region.caption)


def write_contact_sheet(path: Path, plan: Plan, frames: Sequence[np.ndarray]) -> None:
    """Writes the sheet as PNG. `frames` are the plan's scenes in order, each uint8 (T, H, W, 3), of any size."""
    colours = region_colours(plan)
    rows = [_row(n, s, colours[s.id], f) for n, (s, f) in enumerate(zip(plan.scenes, frames, strict=True), 1)]
    height = TITLE_HEIGHT + sum(row.height + ROW_GAP for row in rows) - ROW_GAP + MARGIN
    sheet = Image.new("RGB", (SHEET_WIDTH, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    title = _fit(plan.title or "Untitled", _font(TITLE_SIZE), SHEET_WIDTH - 3 * MARGIN)
    draw.text((MARGIN, MARGIN), title, INK, _font(TITLE_SIZE), anchor="lt")
    top = TITLE_HEIGHT
    for row in rows:
        sheet.paste(row, (MARGIN, top))
        top += row.height + ROW_GAP
    sheet.save(path, "PNG")


def _row(number: int, scene: Scene, colours: Sequence[str], frames: np.ndarray) -> Image.Image:
    """One scene: a heading, six stills, the captions of its regions."""
    width, text = SHEET_WIDTH - 2 * MARGIN, _font(TEXT_SIZE)
    still_height = round(frames.shape[1] * STILL_WIDTH / frames.shape[2])
    column = 2 * (STILL_WIDTH + GAP)  # captions stand three abreast, each under two stills
    captions = [_wrap(region.caption, text, column - 4 * SWATCH) for region in scene.regions]
    depths = [max(map(len, captions[first : first + 3])) for first in range(0, len(captions), 3)]
    row = Image.new("RGB", (width, HEAD_HEIGHT + still_height + GAP + LINE * sum(depths)), PAPER)
    draw = ImageDraw.Draw(row)

    heading = f"{number:02d}   {scene.id}"
    draw.text((0, 0), heading, INK, _font(HEAD_SIZE), anchor="lt")
    left = _font(HEAD_SIZE).getlength(heading) + 2 * SWATCH
    draw.text((left, 2), _fit(scene.background, text, width - left - 2 * SWATCH), FAINT, text, anchor="lt")

    size = (STILL_WIDTH, still_height)
    for keyframe, pixels in enumerate(keyframe_stills(frames), 1):
        still = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
        for region, colour in zip(scene.regions, colours, strict=True):
            if keyframe in region.boxes:
                _outline(still, region.boxes[keyframe], colour)
        row.paste(still, ((keyframe - 1) * (STILL_WIDTH + GAP), HEAD_HEIGHT))

    for index, (lines, colour) in enumerate(zip(captions, colours, strict=True)):
        left = index % 3 * column
        middle = HEAD_HEIGHT + still_height + GAP + LINE * sum(depths[: index // 3]) + LINE // 2
        draw.rectangle((left, middle - SWATCH // 2, left + SWATCH - 1, middle + SWATCH // 2), colour)
        for line in lines:
            draw.text((left + 2 * SWATCH, middle), line, INK, text, anchor="lm")
            middle += LINE
    return row


def _outline(still: Image.Image, box: Box, colour: str) -> None:
    """Draws the box inside its edges: two pixels of colour, one of shadow on either side."""
    draw = ImageDraw.Draw(still, "RGBA")
    left, top = round(box.left * still.width), round(box.top * still.height)
    right, bottom = round(box.right * still.width) - 1, round(box.bottom * still.height) - 1
    for inset, ink in enumerate((_SHADOW, colour, colour, _SHADOW)):
        if left + inset <= right - inset and top + inset <= bottom - inset:
            draw.rectangle((left + inset, top + inset, right - inset, bottom - inset), outline=ink)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # as it is whenever a size is given
    return font


def _wrap(words: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """The words in lines no wider than `width`, broken at spaces, or anywhere in a word that alone is wider."""
    lines, line = [], ""
    for letter in " ".join(words.split()):
        line += letter
        if font.getlength(line) > width:
            cut = line.rfind(" ") + 1 or len(line) - 1
            lines.append(line[:cut].rstrip())
            line = line[cut:]
    return [*lines, line]


def _fit(words: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """As many of the words as have room on one line."""
    first, *rest = _wrap(words, font, width)
    return f"{first}…" if rest else first
