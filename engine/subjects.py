"""The pictures that a subject is learned from: cut out of its reference images, and set before places."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from engine.errors import InputError
from engine.plan import Scene
from engine.scene import render_scene
from engine.settings import RenderSettings
from engine.story import MAX_IMAGES
from engine.video_model import VideoModel

PLACE_STEPS = 15  # of denoising a still
VIEWS = 12  # of a subject that is given without its background
VIEWS_OF_PLACE = 3  # before each of the places, if there are any
SUBJECT_HEIGHT = (0.4, 0.55)  # of the frame, in those views
MIN_PIXELS = 8


class View(NamedTuple):
    """A picture of a subject, uint8 (H, W, 3), how much of each pixel is the subject, float32 (H, W) 0..1, and where it
    stands, in words that follow its name."""

    picture: np.ndarray
    mask: np.ndarray
    place: str = ""


def draw_places(model: VideoModel, seed: int) -> list[tuple[str, np.ndarray]]:
    """The empty places that the bundle has words for, as the base model itself draws them: where one is on each, and a
    picture uint8 (H, W, 3). A subject that is learned before them learns where it ends; nothing when there are none.
    """
    words, still = model.bundle.words, copy.copy(model)
    still.bundle = model.bundle.model_copy(update={"num_frames": 1})  # one latent frame
    settings = RenderSettings(num_inference_steps=PLACE_STEPS, guidance_scale=model.bundle.guidance_scale)
    drawn = []
    for name, (place, empty) in words.places.items() if words else ():
        scene = Scene(id=f"place-{name}", background=empty)

        def draw(scene: Scene = scene) -> torch.Tensor:
            return still.decode(render_scene(still, scene, seed, settings))[0]

        given = f"{seed}\0{settings.model_dump_json()}\0{scene.model_dump_json()}".encode()
        drawn.append((place, model.encodings.get("place", given, draw).numpy()))
    return drawn


def subject_views(
    images: Sequence[Image.Image | np.ndarray],
    height: int,
    width: int,
    seed: int,
    count: int = VIEWS,
    places: Sequence[tuple[str, np.ndarray]] = (),
) -> list[View]:
    """The pictures that a subject is learned from. An opaque image is taken as it is; of those with alpha `count` views
    are made in all: cut out, at about half of the frame's height, anywhere, every other one mirrored, before the
    `places` in turn, or on plain colours when there are none. Raises InputError as `pictures_of` does.
    """
    pictures = pictures_of(images)
    rng, views = np.random.default_rng(seed), []
    cut_out = []
    for picture in pictures:
        if np.asarray(picture.getchannel("A")).min() < 128:
            cut_out.append(picture)
        else:
            rgb = np.asarray(picture.convert("RGB"))
            views.append(View(rgb, np.ones(rgb.shape[:2], np.float32)))
    for n in range(count if cut_out else 0):
        image = cut_out[n % len(cut_out)]
        image = image.crop(image.getchannel("A").getbbox())
        if n // len(cut_out) % 2:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        zoom = min(rng.uniform(*SUBJECT_HEIGHT) * height / image.height, 0.9 * width / image.width)
        size = (max(round(image.width * zoom), 1), max(round(image.height * zoom), 1))
        image = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
        at = (int(rng.integers(width - size[0] + 1)), int(rng.integers(height - size[1] + 1)))
        colour = tuple(int(c) for c in rng.integers(40, 216, 3))
        place, behind = places[n % len(places)] if places else ("", None)
        canvas = Image.new("RGB", (width, height), colour) if behind is None else Image.fromarray(behind)
        mask = Image.new("L", (width, height))
        canvas.paste(image, at, image)
        mask.paste(image.getchannel("A"), at)
        views.append(View(np.asarray(canvas), np.asarray(mask, np.float32) / 255, place))
    return views


def pictures_of(images: Sequence[Image.Image | np.ndarray]) -> list[Image.Image]:
    """The images with an alpha channel. Raises InputError when there are none, for what is none or shows nothing."""
    if not 1 <= len(images) <= MAX_IMAGES:
        none = "no reference image" if not images else f"{len(images)} reference images"
        raise InputError(f"subject: {none}; give one to {MAX_IMAGES}")
    return [_rgba(image, n) for n, image in enumerate(images, 1)]


def _rgba(image: Image.Image | np.ndarray, number: int) -> Image.Image:
    """The image with an alpha channel, or InputError."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
            raise InputError(f"reference image {number}: {image.dtype} {image.shape}; give uint8 (H, W, 3 or 4)")
        image = Image.fromarray(image)
    try:
        picture = image.convert("RGBA")
    except (AttributeError, OSError, ValueError) as error:
        raise InputError(f"reference image {number} cannot be read ({error}); give a PNG or JPEG picture") from None
    if min(picture.size) < MIN_PIXELS or np.asarray(picture.getchannel("A")).max() < 128:
        w, h = picture.size
        raise InputError(f"reference image {number}: {w} x {h} pixels show nothing; give a larger, visible picture")
    return picture
