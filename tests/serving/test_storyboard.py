"""The storyboard page and the contact sheet, from true clips of the miniature's world."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from engine.miniature import words
from engine.miniature.world import Clip, random_clip
from engine.plan import KEYFRAMES, Box, Plan, Region, Scene
from engine.video import encode_video, read_video
from serving import contact
from serving.contact import PALETTE, keyframe_stills, region_colours, write_contact_sheet
from serving.storyboard import Mark, SceneResult, write_storyboard

EVIL = "<script>alert(1)</script> \"a' & <img src=https://evil.example/x.png onerror=alert(2)>"


class Elements(HTMLParser):
    """All elements of a page, as (tag, attributes), and its text outside of styles and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = [("", {})]
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.found[-1][0] not in ("style", "script"):
            self.text += data

    def of(self, tag: str, style: str = "") -> list[dict[str, str]]:
        return [attrs for name, attrs in self.found if name == tag and style in attrs.get("class", "").split(" ")]


def scene_of(clip: Clip, name: str) -> Scene:
    """The plan that a clip is true to: a region for each actor, boxed at the middle of each keyframe."""
    regions = []
    for actor in clip.actors:
        middles = keyframe_stills(actor.boxes).clip(0, 1).tolist()
        caption = words.caption(actor.name, actor.acts[0][0], clip.stage)
        boxes = {keyframe: box for keyframe, box in enumerate(middles, 1) if box[0] < box[2] and box[1] < box[3]}
        regions.append(Region(entity=actor.name, motion=actor.acts[0][0], caption=caption, boxes=boxes))
    return Scene(id=name, background=words.STAGES[clip.stage][1], narration=f"Of {name}.", regions=tuple(regions))


@pytest.fixture(scope="module")
def film() -> tuple[Plan, list[SceneResult]]:
    """Two scenes of two actors, one of which lacks a region at keyframe 1."""
    clips = [random_clip(np.random.default_rng(seed), actors=2) for seed in (3, 8)]
    scenes = [scene_of(clip, name) for clip, name in zip(clips, ("meeting", "parting"), strict=True)]
    late = scenes[1].regions[0].model_copy(update={"boxes": {2: Box(0.1, 0.2, 0.4, 0.9)}})
    scenes[1] = scenes[1].model_copy(update={"regions": (late, *scenes[1].regions[1:])})
    settings = {"num_inference_steps": 25}
    results = [
        SceneResult(scene, encode_video(clip.frames, 8, 4), clip.frames, 7, settings, 12.34, "ab" * 32)
        for scene, clip in zip(scenes, clips, strict=True)
    ]
    return Plan(title="The Fox & the Robot", scenes=tuple(scenes)), results


def page_of(path: Path, plan: Plan, results: list[SceneResult]) -> tuple[str, Elements]:
    write_storyboard(path / "storyboard.html", plan, results, {"model": "miniature", "seed": 7})
    html = (path / "storyboard.html").read_text(encoding="utf-8")
    return html, Elements(html)


def test_page_needs_nothing_but_itself(film, tmp_path):
    html, page = page_of(tmp_path, *film)
    for tag, attrs in page.found:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            assert attrs.get(name, "#").startswith(("data:", "#")), (tag, name)
    assert [attrs.get("src") for attrs in page.of("script")] == [None]
    assert not re.search(r"https?:|url\(|@import", html)
    policy = next(attrs["content"] for attrs in page.of("meta") if "http-equiv" in attrs)
    assert "default-src 'none'" in policy


def test_a_card_per_scene_with_what_was_asked_and_done(film, tmp_path):
    plan, results = film
    _, page = page_of(tmp_path, plan, results)
    assert [card["id"] for card in page.of("article", "card")] == ["meeting", "parting"]
    for words_ in ("The Fox & the Robot", "6 s", "miniature", "Of meeting.", "steps", "25", "12.3 s", "ab" * 32):
        assert words_ in page.text
    for scene in plan.scenes:
        for region in scene.regions:
            assert region.caption in page.text
    assert all("alt" in image for image in page.of("img"))


def test_a_box_per_region_and_keyframe_where_the_plan_has_it(film, tmp_path):
    plan, results = film
    _, page = page_of(tmp_path, plan, results)
    boxes = page.of("rect", "box")
    drawn = [(a["style"], *(float(a[name].removesuffix("%")) for name in ("x", "y", "width", "height"))) for a in boxes]
    wanted = [
        (f"--colour: {colour}", *(100 * share for share in (b.left, b.top, b.right - b.left, b.bottom - b.top)))
        for scene in plan.scenes
        for region, colour in zip(scene.regions, region_colours(plan)[scene.id], strict=True)
        for b in region.boxes.values()
    ]
    assert len(page.of("span", "tag")) == len(drawn) == len(wanted) == 3 * KEYFRAMES + 1
    for (style, *box), (colour, *true) in zip(sorted(drawn), sorted(wanted), strict=True):
        assert style == colour
        assert np.allclose(box, true, atol=0.006)


def test_clips_and_stills_come_back_from_the_page(film, tmp_path):
    plan, results = film
    _, page = page_of(tmp_path, plan, results)
    clips = [attrs["src"] for attrs in page.of("video") if "src" in attrs]
    assert [base64.b64decode(c.removeprefix("data:video/mp4;base64,")) for c in clips] == [r.clip for r in results]
    stills = [attrs["src"] for attrs in page.of("img") if attrs["alt"].startswith("Keyframe")]
    assert len(stills) == len(results) * KEYFRAMES
    with Image.open(io.BytesIO(base64.b64decode(stills[1].split(",")[1]))) as image:
        true = Image.fromarray(results[0].frames[6]).resize(image.size, Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(image, float) - np.asarray(true, float)).mean() < 4


def test_frames_are_read_from_the_clip_when_not_given(film, tmp_path):
    plan, results = film
    bare = [replace(result, frames=None, seconds=None) for result in results]
    _, page = page_of(tmp_path, plan, bare)
    assert len(page.of("rect", "box")) == 3 * KEYFRAMES + 1
    assert "took" not in page.text
    height, width = read_video(results[0].clip)[0].shape[1:3]
    assert f"aspect-ratio: {width} / {height}" in page.of("div", "clip")[0]["style"]


def test_words_from_outside_stay_words(film, tmp_path):
    _, results = film
    region = Region(entity=EVIL, motion=EVIL, caption=EVIL, boxes=(0.0, 0.0, 1.0, 1.0))
    scene = Scene(id="evil", background=EVIL, narration=EVIL, regions=(region,))
    result = replace(results[0], scene=scene, settings={EVIL: EVIL}, key=EVIL)
    html, page = page_of(tmp_path, Plan(title=EVIL, scenes=(scene,)), [result])
    assert "<script>alert" not in html and "<img src=https" not in html
    assert len(page.of("script")) == 1 and not any("onerror" in attrs for _, attrs in page.found)
    assert EVIL in page.text and page.of("article", "card")[0]["data-narration"] == EVIL


def test_scenes_that_are_not_done_are_counted(film, tmp_path):
    plan, results = film
    _, page = page_of(tmp_path, plan, results[1:])
    assert "1 of 2" in page.text
    assert re.search(r"02\s+parting", page.text)


def test_labels_stay_in_the_picture():
    def mark(*box: float) -> Mark:
        return Mark(0, Box(*box), "fox", PALETTE[0])

    assert mark(0, 0, 1, 1).anchor == 0 and mark(0, 0.5, 0.3, 1).anchor == 0
    assert mark(0.7, 0.5, 1.0, 1).anchor == pytest.approx(1)
    assert mark(0.4, 0.05, 0.6, 1).vertical == "top" and mark(0.4, 0.4, 0.6, 1).vertical == "bottom"


def test_an_entity_keeps_its_colour_and_regions_of_a_scene_differ():
    def scene(name: str, *entities: str) -> Scene:
        regions = tuple(Region(entity=entity, caption="x", boxes=(0, 0, 1, 1)) for entity in entities)
        return Scene(id=name, background="x", regions=regions)

    many = [f"e{n}" for n in range(20)]
    plan = Plan(scenes=(scene("a", "fox", "robot"), scene("b", "owl", "Robot", "robot"), scene("c", *many)))
    colours = region_colours(plan)
    assert colours["a"][1] == colours["b"][1] == PALETTE[1]
    assert len(set(colours["b"])) == 3
    assert len(set(colours["c"][: len(PALETTE)])) == len(PALETTE) and len(colours["c"]) == 20


@pytest.mark.parametrize("scale", [1, 6])
def test_contact_sheet(film, tmp_path, scale):
    plan, results = film
    frames = [keyframe_stills(result.frames).repeat(scale, 1).repeat(scale, 2) for result in results]
    write_contact_sheet(tmp_path / "contact.png", plan, frames)
    with Image.open(tmp_path / "contact.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    still_height = contact.STILL_WIDTH * 64 // 112
    row = contact.HEAD_HEIGHT + still_height + contact.GAP + contact.LINE
    height = contact.TITLE_HEIGHT + len(frames) * row + (len(frames) - 1) * contact.ROW_GAP + contact.MARGIN
    assert sheet.shape == (height, contact.SHEET_WIDTH, 3)

    top = contact.TITLE_HEIGHT + contact.HEAD_HEIGHT
    colours = [ImageColor.getrgb(colour) for colour in region_colours(plan)["meeting"]]
    for column in range(KEYFRAMES):
        left = contact.MARGIN + column * (contact.STILL_WIDTH + contact.GAP)
        still = sheet[top : top + still_height, left : left + contact.STILL_WIDTH]
        assert still.std() > 20
        for colour in colours:
            assert (still == colour).all(-1).sum() > 100  # the box's lines
    captions = sheet[top + still_height : top + still_height + contact.GAP + contact.LINE]
    for colour in colours:
        assert (captions == colour).all(-1).sum() >= contact.SWATCH**2


def test_long_words_are_broken(film, tmp_path):
    _, results = film
    region = Region(entity="fox", caption="W" * 200 + " " + "in the forest " * 14, boxes=(0.0, 0.0, 0.01, 0.01))
    long = Plan(title="long " * 40, scenes=(Scene(id="x" * 64, background="wide " * 80, regions=(region,) * 4),))
    write_contact_sheet(tmp_path / "contact.png", long, [results[0].frames])
    with Image.open(tmp_path / "contact.png") as image:
        assert image.width == contact.SHEET_WIDTH and image.height > 500
