"""A story: what the planner reads. A text file, with an optional head between two lines of `---`:

---
title: The fox and the robot
characters:
  dragon: the-dragon.png        # who the model does not know: one to five pictures, found beside the story
---
Early in the morning a fox set out through the forest. ...

With `topic: a wizard's day` in the head and nothing below it, the planner invents the story.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from engine.errors import InputError

MAX_STORY = 20_000  # letters
MAX_TOPIC = 200
MAX_IMAGES = 5
MAX_IMAGE_BYTES = 10_000_000

Name = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[a-z][a-z -]{0,39}$")]


class Story(BaseModel):
    """A story, or a topic to invent one, and its given characters, each with the sha256 of its reference images, which
    travel beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)] = ""
    text: Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_STORY)] = ""
    topic: Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_TOPIC)] = ""
    characters: dict[Name, Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_IMAGES)]] = {}

    @field_validator("characters", mode="before")
    @classmethod
    def _one_image_is_a_list(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {name: (images,) if isinstance(images, str) else images for name, images in value.items()}
        return value

    @model_validator(mode="after")
    def _text_or_topic(self) -> Story:
        if bool(self.text) == bool(self.topic):
            raise ValueError("give the story's text, or a topic to invent one, one of both")
        return self


Images = dict[str, bytes]  # by sha256


def load_story(file: str | Path) -> tuple[Story, Images]:
    """Reads a story file and the images that it names. Raises InputError with the file and what to do."""
    file = Path(file)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the story {file}: {getattr(error, 'strerror', None) or error}") from None
    head: object = {}
    if match := re.match(r"---\s*\n(.*?\n)---[ \t]*(?:\r?\n(.*))?\Z", text, re.DOTALL):
        try:
            head, text = yaml.safe_load(match[1]) or {}, match[2] or ""
        except yaml.YAMLError as error:
            why = getattr(error, "problem", None) or "it cannot be read"
            raise InputError(f"{file}: the head between the two --- lines is not valid YAML: {why}") from None
    if not isinstance(head, dict) or not set(head) <= {"title", "topic", "characters"}:
        raise InputError(f"{file}: the head holds `title`, `topic` and `characters` (name: picture file), nothing else")
    named = head.get("characters") or {}
    if not isinstance(named, dict):
        raise InputError(f"{file}: characters: write one `name: picture.png` a line")
    files = {str(name): [paths] if isinstance(paths, str) else list(paths or ()) for name, paths in named.items()}
    pictures = {name: [_picture(file, name, file.parent / str(p)) for p in paths] for name, paths in files.items()}
    title, topic = head.get("title") or file.stem.replace("-", " "), str(head.get("topic") or "")
    return make_story(str(file), title, text, pictures, topic)


def make_story(
    source: str, title: str, text: str, pictures: Mapping[str, list[bytes]], topic: str = ""
) -> tuple[Story, Images]:
    """A story from its parts, checked; `source` stands in error messages. Raises InputError."""
    if topic.strip() and text.strip():
        raise InputError(f"{source}: it has a topic and a text; leave one of both away")
    if not text.strip() and not topic.strip():
        raise InputError(f"{source}: the story is empty; write what happens, a sentence or more for each scene")
    if len(text.strip()) > MAX_STORY:
        raise InputError(f"{source}: the story has {len(text.strip()):,} letters, at most {MAX_STORY:,} are read")
    images: Images = {}
    characters: dict[str, tuple[str, ...]] = {}
    for name, found in pictures.items():
        for picture in found:
            check_image(f"{source}: characters.{name}", picture)
        keys = [hashlib.sha256(picture).hexdigest() for picture in found]
        characters[name.strip().lower()] = tuple(keys)
        images |= dict(zip(keys, found, strict=True))
    try:
        return Story(title=title, text=text, topic=topic, characters=characters), images
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _picture(story: Path, name: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{story}: characters.{name}: cannot read the picture {file} ({error.strerror})") from None


def check_image(field: str, data: bytes) -> None:
    """Raises InputError, naming the field, for bytes that are no picture we can learn from."""
    if len(data) > MAX_IMAGE_BYTES:
        raise InputError(f"{field}: the picture has {len(data):,} bytes, at most {MAX_IMAGE_BYTES:,} are taken")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as image:
            if min(image.size) < 16 or max(image.size) > 8192:
                raise InputError(f"{field}: the picture is {image.width}x{image.height}; give one of 16 to 8192 pixels")
            image.load()
    except InputError:
        raise
    except Exception:
        raise InputError(f"{field}: this is no picture; give a PNG, JPEG or WebP file") from None


def read_image(data: bytes) -> Image.Image:
    """A picture that `check_image` passed, RGBA."""
    return Image.open(io.BytesIO(data)).convert("RGBA")
