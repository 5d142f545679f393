"""Stories: what a file may hold, and what is refused."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from engine.errors import InputError
from engine.story import MAX_STORY, load_story, make_story


def _png(size=(32, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "orange").save(buffer, "PNG")
    return buffer.getvalue()


def test_a_plain_text_is_a_story(tmp_path) -> None:
    (tmp_path / "a-walk.txt").write_text("A fox walks.\n")
    story, images = load_story(tmp_path / "a-walk.txt")
    assert (story.title, story.text, images) == ("a walk", "A fox walks.", {})


def test_characters_come_with_their_pictures(tmp_path) -> None:
    (tmp_path / "g.png").write_bytes(_png())
    file = tmp_path / "s.txt"
    file.write_text("---\ntitle: Night\ncharacters:\n  Ghost: g.png\n---\nA ghost flies.")
    story, images = load_story(file)
    assert story.title == "Night" and story.text == "A ghost flies."
    assert story.characters == {"ghost": tuple(images)}
    assert list(images.values()) == [_png()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the story is empty"),
        ("---\ntitle: x\n---\n  \n", "the story is empty"),
        ("a" * (MAX_STORY + 1), "20,001 letters, at most 20,000"),
        ("---\nmood: sad\n---\nA fox.", "the head holds `title`, `topic` and `characters`"),
        ("---\ncharacters:\n  ghost: no.png\n---\nA fox.", "characters.ghost: cannot read the picture"),
        ("---\ncharacters:\n  ghost: s.txt\n---\nA fox.", "characters.ghost: this is no picture"),
        ("---\ncharacters: [ghost\n---\nA fox.", "not valid YAML"),
        ("---\ncharacters: ghost\n---\nA fox.", "characters: write one `name: picture.png` a line"),
    ],
)
def test_what_is_refused(tmp_path, text, words) -> None:
    file = tmp_path / "s.txt"
    file.write_text(text)
    with pytest.raises(InputError, match=words.replace("(", r"\(")) as error:
        load_story(file)
    assert "\n" not in str(error.value)


def test_pictures_have_limits() -> None:
    with pytest.raises(InputError, match="8x8; give one of 16 to 8192 pixels"):
        make_story("prompt", "", "A ghost.", {"ghost": [_png((8, 8))]})
    with pytest.raises(InputError, match=r"characters\.ghost"):
        make_story("prompt", "", "A ghost.", {"ghost": [_png()] * 6})
