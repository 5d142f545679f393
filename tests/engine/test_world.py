"""The miniature's world tells the truth about its clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.miniature import words
from engine.miniature.captions import plain_conditions, region_conditions
from engine.miniature.motions import make_track
from engine.miniature.stages import HEIGHT, WIDTH, paint
from engine.miniature.train_video import GRID, additive_mask, build_tokenizer, describe
from engine.miniature.world import FRAMES, SPRITES, random_clip
from engine.models import load_bundle


def test_the_cast() -> None:
    assert len(words.BASE_CHARACTERS) == 16 and len(words.NEW_CHARACTERS) >= 4
    assert len(words.STAGES) == 8 and len(words.BASE_MOTIONS) == 8 and len(words.LIBRARY_MOTIONS) >= 6
    assert {f.stem for f in SPRITES.glob("*.png")} == set(words.CHARACTERS)


def test_the_bundle_knows_what_the_base_model_was_taught() -> None:
    known = load_bundle("miniature").words
    assert known.characters == tuple(words.BASE_CHARACTERS)
    assert known.motions == words.BASE_MOTIONS
    assert known.stages == tuple(words.STAGES)


@pytest.mark.parametrize("seed", range(8))
def test_boxes_and_masks_are_where_the_pixels_are(seed: int) -> None:
    clip = random_clip(np.random.default_rng(seed), tuple(words.CHARACTERS), words.MOTIONS)
    assert clip.frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    changed = np.abs(clip.frames.astype(int) - paint(clip.stage)).max(-1) > 60
    everyone = np.zeros_like(changed)
    for actor in clip.actors:
        everyone |= actor.masks
        for mask, (left, top, right, bottom) in zip(actor.masks, actor.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            if len(rows):
                assert left * WIDTH - 1e-3 <= columns.min() and columns.max() < right * WIDTH + 1e-3
                assert top * HEIGHT - 1e-3 <= rows.min() and rows.max() < bottom * HEIGHT + 1e-3
    outside = changed & ~everyone
    assert outside.mean() < 0.01  # smooth edges alone


def test_the_same_seed_is_the_same_clip() -> None:
    a, b = (random_clip(np.random.default_rng(4)) for _ in range(2))
    assert (a.frames == b.frames).all()


@pytest.mark.parametrize("motion", words.MOTIONS)
def test_actors_stay_on_stage(motion: str) -> None:
    for seed in range(20):
        track = make_track(motion, np.random.default_rng(seed), 30, (0, WIDTH))
        assert track.inside(30, margin=4), seed


def test_the_words_are_one_token_each() -> None:
    tokenizer = build_tokenizer()
    caption = words.caption("octopus", "jumps up and down", "night")
    ids = tokenizer(caption).input_ids
    assert tokenizer.decode(ids) == f"{caption} </s>"
    assert tokenizer.unk_token_id not in ids
    assert tokenizer("a Fox, dances.").input_ids == tokenizer("a fox dances").input_ids
    assert tokenizer("a sesquipedalian fox").input_ids[1] == tokenizer.unk_token_id


@pytest.mark.parametrize("make", [plain_conditions, region_conditions])
def test_training_conditions_cover_every_token(make) -> None:
    tokenizer = build_tokenizer()
    for seed in range(20):
        clip = random_clip(np.random.default_rng(seed))
        sample = make(np.random.default_rng(seed), describe(clip), GRID)
        assert sample.heard.shape == (len(sample.captions), GRID.size)
        assert sample.heard.any(0).all()
        for caption in sample.captions:
            ids = tokenizer(caption).input_ids
            unknown = [w for w in caption.split() if w != "<unk>" and w not in tokenizer.get_vocab()]
            assert not unknown and len(ids) <= 40
        mask = additive_mask([sample])
        assert torch.isfinite(mask).any(-1).all()  # a row that may attend to nothing would be NaN
