"""Detection, tracking and cutting: on boxes drawn by hand, on the miniature's footage, and with a tiny random YOLOS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import YolosConfig, YolosForObjectDetection

from engine.cutting import Captioned, Cutter, scored_pixels
from engine.detectors import MEAN, STD, make_detector
from engine.errors import InputError
from engine.library_settings import BackgroundDetector, SegmentSettings, YolosDetector
from engine.miniature.motions import make_track
from engine.miniature.stages import HEIGHT, WIDTH, paint
from engine.miniature.world import draw
from engine.models import load_bundle
from engine.scorers import normal, squeeze
from engine.segments import PICTURE, Segment, find_segments, find_tracks, overlap
from engine.video import encode_video, read_video

SETTINGS = SegmentSettings(detector=BackgroundDetector(kind="background"), min_seconds=1, widen_to=1, margin=None)


def boxes(*corners: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(corners, np.float32).reshape(-1, 4)


def moving(n: int, top: float = 0.4) -> np.ndarray:
    """A box that crosses the picture in 20 looks."""
    return boxes((0.04 * n, top, 0.04 * n + 0.1, top + 0.3))


def footage(*acts: tuple[str, str, int, int], length: int) -> np.ndarray:
    """A still stage on which each (character, motion, from, to) is seen in its frames: uint8 (length, H, W, 3)."""
    stage = paint("forest").astype(np.float32)
    film = np.repeat(stage[None], length, 0)
    for actor, motion, first, last in acts:
        way = make_track(motion, np.random.default_rng(1), 28.0, (0.0, float(WIDTH)))
        for f in range(first, last):
            k = (f - first) % len(way.x)
            layer = draw(actor, 28.0 * way.scale[k], way.x[k], way.y[k], way.angle[k], bool(way.right[k]))
            film[f] = film[f] * (1 - layer[..., 3:]) + layer[..., :3] * 255
    return film.round().astype(np.uint8)


def cutter(**changes) -> Cutter:
    bundle = load_bundle("miniature")
    segments = SETTINGS.model_copy(update=changes)
    return Cutter(bundle.model_copy(update={"library": bundle.library.model_copy(update={"segments": segments})}))


def test_boxes_become_tracks_that_cross_and_pause() -> None:
    looks = [np.concatenate([moving(n), moving(20 - n, 0.05)] if n not in (7, 8) else [moving(n)]) for n in range(20)]
    tracks = find_tracks(looks, 0.3, max_gap=2)
    assert [len(t.looks) for t in tracks] == [20, 18]
    assert all(np.allclose(box, moving(n)[0]) for n, box in enumerate(tracks[0].boxes))
    assert len(find_tracks(looks, 0.3, max_gap=1)) == 3  # out of sight for two looks is too long


def test_overlap_of_boxes() -> None:
    a, b = boxes((0, 0, 0.5, 1), (0.25, 0, 0.75, 1))
    assert overlap(a, a) == pytest.approx(1)
    assert overlap(a, b) == pytest.approx(1 / 3)
    assert overlap(a, a + np.float32(0.6)) == 0


def test_segments_are_where_the_subject_is() -> None:
    nobody = boxes()
    looks = [nobody] * 10 + [moving(n) for n in range(20)] + [nobody] * 30
    assert find_segments(looks, 1, 60, 8, SETTINGS) == [Segment(10, 30, PICTURE, 1.0)]
    wide = SETTINGS.model_copy(update={"widen_to": 5.0})  # 40 frames, ten more on either side
    assert find_segments(looks, 1, 60, 8, wide) == [Segment(0, 40, PICTURE, 0.5)]
    short = SETTINGS.model_copy(update={"max_seconds": 1.0})  # two and a half seconds: three pieces
    pieces = [(s.start, s.end) for s in find_segments(looks, 1, 60, 8, short)]
    assert pieces == [(10, 18), (16, 24), (23, 31)]  # a second each
    half = find_segments(looks, 2, 120, 16, SETTINGS)  # every second frame was looked at
    assert [(s.start, s.end) for s in half] == [(20, 60)]


def test_the_window_is_fixed_and_holds_the_whole_way() -> None:
    looks = [moving(n) for n in range(10)]  # from 0 to 0.46 of the width
    cropped = SETTINGS.model_copy(update={"margin": 0.1, "smallest_crop": 0.2})
    left, top, right, bottom = find_segments(looks, 1, 10, 8, cropped)[0].window
    assert left == pytest.approx(0, abs=1e-6)
    assert right == pytest.approx(0.46 * 1.2, abs=1e-5)
    assert right - left == pytest.approx(bottom - top)  # the picture's own shape
    assert top <= 0.4 and bottom >= 0.7


def test_nobody_is_found() -> None:
    looks = [boxes()] * 20
    with pytest.raises(InputError, match="no moving subject is seen in it for 1 s"):
        find_segments(looks, 1, 20, 8, SETTINGS)
    whole = SETTINGS.model_copy(update={"whole": True})
    assert find_segments(looks, 1, 20, 8, whole) == [Segment(0, 20, PICTURE, 0.0)]


def test_footage_is_cut_in_time_and_space() -> None:
    """A fox, then nobody for two seconds, then an owl: two segments, each with its own actor, in a smaller window."""
    film = footage(("fox", "walks right", 0, 24), ("owl", "spins around", 44, 68), length=72)
    clip = Captioned("a fox, then an owl", encode_video(film, 8), "long.mp4")
    whole = cutter().cut(clip)
    assert [(round(c.row["start"] * 8), c.row["frames"], c.row["width"]) for c in whole] == [
        (pytest.approx(0, abs=2), pytest.approx(24, abs=3), WIDTH),
        (pytest.approx(44, abs=2), pytest.approx(24, abs=3), WIDTH),
    ]
    assert [c.row["id"][64:] for c in whole] == ["-0", "-1"]
    assert {c.row["source"] for c in whole} == {clip.source}
    first = read_video(whole[0].video)[0]
    assert len(first) == whole[0].row["frames"]
    assert np.abs(first.astype(int) - film[: len(first)]).mean() < 8  # encoded anew

    near = cutter(margin=0.2, smallest_crop=0.3).cut(clip)
    owl = near[1]
    assert owl.row["width"] < WIDTH
    assert owl.row["width"] / owl.row["height"] == pytest.approx(WIDTH / HEIGHT, abs=0.1)
    assert read_video(owl.video)[0].shape == (owl.row["frames"], owl.row["height"], owl.row["width"], 3)


def test_a_clip_that_needs_no_cut_keeps_its_bytes() -> None:
    film = footage(("fox", "spins around", 0, 24), length=24)
    clip = Captioned(" a fox \n spins", encode_video(film, 8), "spin.mp4")
    (cut,) = cutter(widen_to=3.0).cut(clip)
    assert cut.video is clip.video
    assert cut.row["caption"] == "a fox spins"
    assert (cut.row["frames"], cut.row["seconds"], cut.row["presence"]) == (24, 3, pytest.approx(1, abs=0.2))
    np.testing.assert_array_equal(cut.pixels, scored_pixels(read_video(clip.video)[0]))


def test_who_stands_still_is_background() -> None:
    still = footage(("fox", "walks right", 0, 1), length=24)
    still[:] = still[0]
    with pytest.raises(InputError, match="no moving subject"):
        cutter().cut(Captioned("a fox", encode_video(still, 8)))
    detector = make_detector(BackgroundDetector(kind="background"), Path())
    assert all(len(found) == 0 for found in detector(still))


def test_the_background_detector_finds_the_actor() -> None:
    film = footage(("fox", "walks right", 0, 24), length=24)
    found = make_detector(BackgroundDetector(kind="background"), Path())(film)
    way = make_track("walks right", np.random.default_rng(1), 28.0, (0.0, float(WIDTH)))
    inside = [
        any(b[0] <= x / WIDTH <= b[2] and b[1] <= y / HEIGHT <= b[3] for b in look)
        for look, x, y in zip(found, way.x, way.y, strict=True)
    ]
    assert np.mean(inside) > 0.9
    assert np.mean([len(look) for look in found]) < 2


@pytest.fixture(scope="module")
def yolos(tmp_path_factory) -> Path:
    """A YOLOS folder of two layers with random weights and three labels."""
    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[64, 96],
        num_detection_tokens=5, id2label={0: "person", 1: "dog", 2: "cat"}, label2id={"person": 0, "dog": 1, "cat": 2},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bundle")
    YolosForObjectDetection(config).save_pretrained(folder / "yolos")
    return folder


def test_yolos_from_a_folder(yolos) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (11, 50, 90, 3), np.uint8)
    every = YolosDetector(kind="yolos", model="yolos", labels=("person", "dog", "cat"), threshold=0)
    found = make_detector(every, yolos)(frames)
    assert len(found) == 11
    assert all(f.shape == (5, 4) and (f >= 0).all() and (f <= 1).all() for f in found)
    np.testing.assert_allclose(make_detector(every, yolos)(frames[:1])[0], found[0], atol=1e-5)  # batches do not matter

    detector = make_detector(every.model_copy(update={"labels": ("person",)}), yolos)
    with torch.inference_mode():
        answer = detector.model(pixel_values=normal(squeeze(frames[:2], 48, 96), MEAN, STD))
        chances = answer.logits.softmax(-1)
    mine = chances[..., :-1].argmax(-1) == 0
    assert [len(f) for f in detector(frames[:2])] == mine.sum(1).tolist()
    sure = make_detector(every.model_copy(update={"threshold": float(chances[..., :-1].max()) + 0.01}), yolos)
    assert all(len(f) == 0 for f in sure(frames[:2]))


def test_yolos_cuts_a_clip(yolos) -> None:
    """Random weights give the same boxes in every frame of a still clip: one track, one segment, in its window."""
    settings = SegmentSettings(
        detector=YolosDetector(kind="yolos", model="yolos", labels=("person", "dog", "cat"), threshold=0),
        margin=0.1, smallest_crop=0.25,
    )  # fmt: skip
    bundle = load_bundle("miniature")
    library = bundle.library.model_copy(update={"segments": settings})
    cuts = Cutter(bundle.model_copy(update={"library": library, "folder": yolos})).cut(
        Captioned("nothing moves", encode_video(footage(length=24), 8))
    )
    assert cuts
    assert all(c.row["frames"] == 24 and c.row["presence"] == 1 for c in cuts)


def test_yolos_that_is_none(yolos) -> None:
    (yolos / "empty").mkdir()
    with pytest.raises(InputError, match=r"library\.segments\.detector\.model: empty is no YOLOS model"):
        make_detector(YolosDetector(kind="yolos", model="empty"), yolos)
    with pytest.raises(InputError, match=r"detector\.labels: yolos knows none of unicorn; it knows person, dog, cat"):
        make_detector(YolosDetector(kind="yolos", model="yolos", labels=("unicorn",)), yolos)


def test_the_bundles_choose() -> None:
    assert load_bundle("miniature").library.segments.detector.kind == "background"
    assert load_bundle("cogvideox-2b").library.segments.detector.kind == "yolos"
