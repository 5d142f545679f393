"""The storyboard: a film on one page that needs nothing but itself, for people who would rather look than read.

Clips and stills are data: URIs, styles and script are inline, and a content security policy forbids the page to load
anything or to run any script but its own. The page is page/storyboard.html.j2; this file prepares what it shows:
to extend it, add a field to `Card` and show it there.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from engine.plan import KEYFRAMES, Box, Plan, Region, Scene
from engine.video import read_video
from serving.contact import keyframe_stills, region_colours, region_label
from serving.learned import Learned

PAGE = Path(__file__).parent / "page"
STILL_WIDTH = 448  # pixels: the miniature enlarged four times, as in its clips; other frames reduced
SHORT_NAMES = {"num_inference_steps": "steps", "guidance_scale": "guidance"}


@dataclass(frozen=True, eq=False)
class SceneResult:
    """One rendered scene: `clip` is mp4; `frames` uint8 (T, H, W, 3), read from the clip when None; `seconds` is how
    long rendering took, None when that is not known; `key` the content key of the result."""

    scene: Scene
    clip: bytes
    frames: np.ndarray | None
    seed: int
    settings: Mapping[str, str | int | float]
    seconds: float | None
    key: str


@dataclass(frozen=True)
class Mark:
    """A region's box on one still, and the label on its upper edge."""

    region: int
    box: Box
    label: str
    colour: str

    @property
    def anchor(self) -> float:
        """Where the label hangs: at this share of the picture's width, by this share of its own. So it goes from flush
        left on a box at the left border to flush right at the right one, and never leaves the picture."""
        room = 1 - (self.box.right - self.box.left)
        return self.box.left / room if room > 0 else 0

    @property
    def vertical(self) -> Literal["top", "bottom"]:
        """Which edge of the label lies on the box's upper edge: its top when there is no room for it above the box."""
        return "top" if self.box.top < 0.15 else "bottom"


@dataclass(frozen=True)
class Still:
    """One keyframe: a picture (data: URI) and the boxes seen in it."""

    keyframe: int
    image: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Card:
    """All that the page shows of one scene; `width` and `height` in pixels of its clip, `facts` label -> value."""

    number: int
    scene: Scene
    regions: tuple[tuple[Region, str], ...]
    stills: tuple[Still, ...]
    clip: str
    width: int
    height: int
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Lesson:
    """A prior as the page shows it: `pictures` are (data: URI, caption), `curve` an SVG line's points, 100 x 24."""

    learned: Learned
    pictures: tuple[tuple[str, str], ...]
    curve: str


def write_storyboard(
    path: Path,
    plan: Plan,
    results: Sequence[SceneResult],
    film: Mapping[str, object],
    learned: Sequence[Learned] = (),
) -> None:
    """Writes the page. `results` are the scenes that are done, in the film's order. `film` is what the header says
    besides title, length and number of scenes, which come by themselves: label -> value in order (model, seed, ...).
    `learned` are the film's priors.
    """
    colours = region_colours(plan)
    numbers = {scene.id: number for number, scene in enumerate(plan.scenes, 1)}
    cards = [_card(numbers[result.scene.id], result, colours[result.scene.id]) for result in results]
    scenes = f"{len(cards)}" if len(cards) == len(numbers) else f"{len(cards)} of {len(numbers)}"
    facts = {"length": _clock(sum(_seconds(result.clip) for result in results)), "scenes": scenes}
    facts |= {_name(key): _text(value) for key, value in film.items() if value is not None}

    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,  # always: the default looks at the file's name
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (PAGE / "storyboard.js").read_text(encoding="utf-8")
    html = pages.get_template("storyboard.html.j2").render(
        title=plan.title or "Untitled",
        facts=facts,
        cards=cards,
        lessons=[_lesson(prior) for prior in learned],
        keyframes=KEYFRAMES,
        style=Markup((PAGE / "storyboard.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path.write_text(html, encoding="utf-8")


def _card(number: int, result: SceneResult, colours: Sequence[str]) -> Card:
    scene = result.scene
    frames = read_video(result.clip)[0] if result.frames is None else result.frames
    stills = []
    for keyframe, pixels in enumerate(keyframe_stills(frames), 1):
        marks = [
            Mark(index, region.boxes[keyframe], region_label(region), colour)
            for index, (region, colour) in enumerate(zip(scene.regions, colours, strict=True))
            if keyframe in region.boxes
        ]
        # large ones first, so that a pointer finds the small ones above them
        marks.sort(key=lambda mark: -(mark.box.right - mark.box.left) * (mark.box.bottom - mark.box.top))
        stills.append(Still(keyframe, _image_uri(pixels), tuple(marks)))
    facts = {"seed": _text(result.seed)} | {_name(k): _text(v) for k, v in result.settings.items()}
    if result.seconds is not None:
        facts["took"] = f"{result.seconds:.1f} s"
    return Card(
        number=number,
        scene=scene,
        regions=tuple(zip(scene.regions, colours, strict=True)),
        stills=tuple(stills),
        clip=_uri("video/mp4", result.clip),
        width=frames.shape[2],
        height=frames.shape[1],
        facts=facts | {"key": result.key},
    )


def _lesson(learned: Learned) -> Lesson:
    pictures = tuple((_image_uri(image, image.shape[1]), caption) for image, caption in learned.pictures)
    high = max(learned.curve, default=1) or 1
    last = max(len(learned.curve) - 1, 1)
    points = " ".join(f"{100 * n / last:.1f},{24 - 23 * loss / high:.1f}" for n, loss in enumerate(learned.curve))
    return Lesson(learned, pictures, points)


def _image_uri(pixels: np.ndarray, width: int = STILL_WIDTH) -> str:
    """A frame, uint8 (H, W, 3), as WebP."""
    size = (width, round(pixels.shape[0] * width / pixels.shape[1]))
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=88, method=2)
    return _uri("image/webp", buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _seconds(clip: bytes) -> float:
    """The length of an mp4."""
    with av.open(io.BytesIO(clip), "r") as container:
        return (container.duration or 0) / av.time_base


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _name(key: str) -> str:
    return SHORT_NAMES.get(key, key.replace("_", " "))


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
