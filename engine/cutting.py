"""What is done to one clip before it is in the library: read, looked at, cut into segments around its subjects.

A clip is decoded twice, frame by frame: once to find the subjects in small pictures, once to take the segments out of
it. So memory holds a segment at most, however long the footage is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Sequence
from typing import Any, NamedTuple

import av
import numpy as np

from engine.detectors import Boxes, make_detector
from engine.errors import InputError
from engine.models import Bundle
from engine.scorers import sample
from engine.segments import PICTURE, Segment, find_segments
from engine.video import encode_video, open_frames

SCORED_SIDE = 256  # pixels of the shorter side that the scorers get to see at most; they shrink it further
KEPT_SIDE = 960  # of the longer side of a segment that is encoded anew: video models take less


class Captioned(NamedTuple):
    """A clip to be added: its caption, its file's bytes (whatever PyAV reads), and what to call it in reports."""

    caption: str
    video: bytes
    name: str = ""

    @property
    def source(self) -> str:
        """sha256 of the file: the same file under another name is the same clip."""
        return hashlib.sha256(self.video).hexdigest()


class Cut(NamedTuple):
    """A segment of a clip: its row without embeddings, its video as mp4, and what scorers see, uint8 (8, H, W, 3)."""

    row: dict[str, Any]
    video: bytes
    pixels: np.ndarray


class Cutter:
    """Cuts clips as the bundle says; holds its detector."""

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        self.settings = bundle.library.segments
        self.detector = make_detector(self.settings.detector, bundle.folder, device) if self.settings else None

    def cut(self, clip: Captioned) -> list[Cut]:
        """The clip's segments in order. Raises InputError that says what is wrong with it."""
        if not clip.caption.strip():
            raise InputError("it has no caption; write one into a .txt file of the same name, or into captions.csv")
        try:
            return self._cut(clip)
        except InputError:
            raise
        except Exception as error:  # footage is broken in more ways than decoders know: the next clip's turn comes
            raise InputError(f"cannot be cut: {type(error).__name__}: {error}") from error

    def _cut(self, clip: Captioned) -> list[Cut]:
        film = self._look(clip.video)
        source, whole = clip.source, [(s.start, s.end, s.window) for s in film.segments] == [(0, film.frames, PICTURE)]
        kept_as_it_is = whole and clip.video[4:8] == b"ftyp"
        wanted = set(sample(np.arange(film.frames)).tolist()) if kept_as_it_is else range(film.frames)
        cuts = []
        for n, (segment, pictures) in enumerate(
            zip(film.segments, _take(clip.video, film.segments, wanted), strict=True)
        ):
            shot, frames = np.stack(pictures), segment.end - segment.start
            width, height = film.size if kept_as_it_is else (shot.shape[2], shot.shape[1])
            row = {
                "id": f"{source}-{n}", "source": source, "segment": n, "segments": len(film.segments),
                "name": clip.name, "start": segment.start / film.rate, "caption": " ".join(clip.caption.split()),
                "seconds": frames / film.rate, "frames": frames, "width": width, "height": height,
                "presence": segment.presence if self.settings else None,
            }  # fmt: skip
            video = clip.video if kept_as_it_is else encode_video(shot, max(1, round(film.rate)))
            cuts.append(Cut(row, video, scored_pixels(shot)))
        return cuts

    def _look(self, video: bytes) -> _Film:
        """What the clip is, and where to cut it."""
        rate, decoded = open_frames(video)
        frames, size = 0, (0, 0)
        settings = self.settings
        every = max(1, round(rate / settings.detector.per_second)) if settings else 1

        def small_pictures() -> Iterable[np.ndarray]:
            nonlocal frames, size
            for frame in decoded:
                if min(frame.width, frame.height) < 2:
                    raise InputError(f"its picture has {frame.width} x {frame.height} pixels")
                if settings and frames % every == 0:
                    yield _picture(frame, settings.detector.longest_side)
                frames, size = frames + 1, (frame.width // 2 * 2, frame.height // 2 * 2)

        looks: list[Boxes] = self.detector(small_pictures()) if self.detector else list(small_pictures())
        if frames < 2:
            raise InputError("it has one frame only, so nothing moves")
        whole = [Segment(0, frames)]
        segments = find_segments(looks, every, frames, float(rate), settings) if settings else whole
        return _Film(frames, float(rate), size, segments)


class _Film(NamedTuple):
    """A clip's number of frames, how many a second, width and height (even), and its segments."""

    frames: int
    rate: float
    size: tuple[int, int]
    segments: list[Segment]


def scored_pixels(frames: np.ndarray) -> np.ndarray:
    """What the scorers see of a clip uint8 (T, H, W, 3): eight of its frames, made smaller when they are large."""
    seen, shorter = sample(frames), min(frames.shape[1:3])
    if shorter <= SCORED_SIDE:
        return seen
    height, width = (round(side * SCORED_SIDE / shorter) for side in frames.shape[1:3])
    pictures = [av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in seen]
    return np.stack([p.to_ndarray(width=width, height=height, format="rgb24", interpolation="AREA") for p in pictures])


def _picture(frame: av.VideoFrame, longest_side: int) -> np.ndarray:
    """A frame, uint8 (H, W, 3), with both sides even as H.264 wants them, made smaller when it is large."""
    scale = min(1.0, longest_side / max(frame.width, frame.height))
    if scale == 1:
        whole = frame.to_ndarray(format="rgb24")
        return whole[: whole.shape[0] // 2 * 2, : whole.shape[1] // 2 * 2]
    width, height = (max(2, round(side * scale / 2) * 2) for side in (frame.width, frame.height))
    return frame.to_ndarray(width=width, height=height, format="rgb24", interpolation="AREA")


def _take(video: bytes, segments: Sequence[Segment], wanted: Container[int]) -> Iterable[list[np.ndarray]]:
    """The wanted frames of each segment, in the segments' order, seen through its window: one decoding, and each is in
    memory only until those that begin before it are done."""
    taken: list[list[np.ndarray]] = [[] for _ in segments]
    done = 0
    for n, frame in enumerate(open_frames(video)[1]):
        if n in wanted:
            for k in range(done, len(segments)):
                if segments[k].start <= n < segments[k].end:
                    taken[k].append(_through(_picture(frame, KEPT_SIDE), segments[k]))
        while done < len(segments) and n + 1 >= segments[done].end:
            yield taken[done]
            taken[done] = []
            done += 1


def _through(picture: np.ndarray, segment: Segment) -> np.ndarray:
    """What the segment's window shows of a picture (H, W, 3); even sides."""
    height, width = picture.shape[:2]
    left, top, right, bottom = segment.window
    x, y = (int(low * side) // 2 * 2 for low, side in ((left, width), (top, height)))
    w, h = (max(2, round((b - a) * side / 2) * 2) for a, b, side in ((left, right, width), (top, bottom, height)))
    return picture[y : y + h, x : x + w]
