"""mp4 in and out."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InputError
from engine.miniature.world import random_clip
from engine.video import encode_video, join_videos, read_video


@pytest.fixture(scope="module")
def clips() -> list[bytes]:
    return [encode_video(random_clip(np.random.default_rng(n)).frames, 8, 4) for n in range(3)]


def test_frames_come_back(clips) -> None:
    frames, fps = read_video(clips[0])
    true = random_clip(np.random.default_rng(0)).frames.astype(float)
    assert fps == 8 and frames.shape == (24, 256, 448, 3)
    small = frames.reshape(24, 64, 4, 112, 4, 3).mean((2, 4))
    assert np.abs(small - true).mean() < 3  # grey levels


def test_the_same_frames_are_the_same_bytes() -> None:
    """Hard frames: on them x264's CPU-picked code gave other bytes at every second call."""
    noise = np.random.default_rng(1).integers(0, 128, (24, 64, 112, 3))
    frames = (random_clip(np.random.default_rng(0)).frames * 0.5 + noise).astype(np.uint8)
    assert len({encode_video(frames, 8, 6) for _ in range(4)}) == 1


def test_joining_encodes_nothing_again(clips) -> None:
    film = join_videos(clips)
    assert (read_video(film)[0] == np.concatenate([read_video(c)[0] for c in clips])).all()
    assert join_videos(clips) == film


def test_what_is_no_video(tmp_path) -> None:
    (tmp_path / "x.mp4").write_text("no")
    with pytest.raises(InputError, match="cannot read the video"):
        read_video(tmp_path / "x.mp4")
