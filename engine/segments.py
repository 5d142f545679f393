"""Where to cut footage into segments centred on one subject: boxes from look to look become tracks, tracks segments.

Source: method.md section 2, step 3. The paper names a detector and no tracker, lengths or crop, so these are ours:
boxes are joined by their overlap with where a track should be by now (its last box moved on at its last speed). A
segment's window is fixed and holds the subject's whole way: one that followed it would take away the very motion that
is to be learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import NamedTuple

import numpy as np

from engine.detectors import Boxes
from engine.errors import InputError
from engine.library_settings import SegmentSettings

ALIKE = 0.5  # a whole-picture segment that shares more of its time with another is left out

Window = tuple[float, float, float, float]  # left, top, right, bottom in 0..1
PICTURE: Window = (0.0, 0.0, 1.0, 1.0)


class Track(NamedTuple):
    """One subject: the looks (indices, rising) at which it was seen, and its boxes there (N, 4)."""

    looks: list[int]
    boxes: list[np.ndarray]

    def expected(self, look: int) -> np.ndarray:
        """Where its box should be: the last one, moved on as between the last two."""
        if len(self.looks) < 2:
            return self.boxes[-1]
        speed = (self.boxes[-1] - self.boxes[-2]) / (self.looks[-1] - self.looks[-2])
        shift = np.array([speed[[0, 2]].mean(), speed[[1, 3]].mean()] * 2)
        return self.boxes[-1] + shift * (look - self.looks[-1])


class Segment(NamedTuple):
    """Frames start..end (end not in it) of a clip, seen through a window; `presence`: the share of looks in between at
    which the subject was seen, 0 for a clip in which nobody was found."""

    start: int
    end: int
    window: Window = PICTURE
    presence: float = 0.0


def find_tracks(looks: Sequence[Boxes], min_overlap: float, max_gap: int) -> list[Track]:
    """Joins boxes, looks one after the other: best overlaps first, each box in one track. A track ends when it was not
    seen for more than `max_gap` looks."""
    tracks: list[Track] = []
    for look, boxes in enumerate(looks):
        open_tracks = [t for t in tracks if look - t.looks[-1] <= max_gap + 1]
        free = set(range(len(boxes)))
        pairs = [(overlap(t.expected(look), boxes[n]), k, n) for k, t in enumerate(open_tracks) for n in free]
        for score, k, n in sorted(pairs, key=lambda pair: -pair[0]):
            track = open_tracks[k]
            if score >= min_overlap and n in free and track.looks[-1] < look:
                track.looks.append(look)
                track.boxes.append(boxes[n])
                free.remove(n)
        tracks += [Track([look], [boxes[n]]) for n in sorted(free)]
    return tracks


def find_segments(looks: Sequence[Boxes], every: int, frames: int, rate: float, s: SegmentSettings) -> list[Segment]:
    """The segments of a clip of so many frames at `rate` a second, looked at in every `every`-th frame. Raises
    InputError when there is none."""
    least = max(2, s.min_seconds * rate / every)
    found = [
        segment
        for track in find_tracks(looks, s.min_overlap, int(s.max_gap * rate / every))
        if track.looks[-1] - track.looks[0] + 1 >= min(least, len(looks))
        for segment in _pieces(track, every, frames, rate, s)
    ]
    if not found:
        if s.whole:
            return [Segment(0, frames)]
        who = " or ".join(s.detector.labels) if s.detector.kind == "yolos" else "moving subject"
        raise InputError(f"no {who} is seen in it for {s.min_seconds:g} s; segments are cut around subjects")
    if s.margin is None:
        found = _distinct(found)
    return sorted(found)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = float(np.prod(np.clip(high - low, 0, None)))
    either = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both
    return both / either if either > 0 else 0.0


def _pieces(track: Track, every: int, frames: int, rate: float, s: SegmentSettings) -> list[Segment]:
    """A track's time in equal pieces of at most `max_seconds`, each at least `widen_to` where the footage has it."""
    first, last = track.looks[0] * every, min(frames, (track.looks[-1] + 1) * every)
    count = ceil((last - first) / (s.max_seconds * rate))
    edges = np.linspace(first, last, count + 1).round().astype(int).tolist()
    pieces = []
    for start, end in pairwise(edges):
        seen = [box for look, box in zip(track.looks, track.boxes, strict=True) if start <= look * every < end]
        if not seen:
            continue
        missing = max(0, ceil(s.widen_to * rate) - (end - start))
        start = max(0, min(start - missing // 2, frames - (end - start + missing)))
        end = min(frames, max(end, start + ceil(s.widen_to * rate)))
        presence = min(1.0, len(seen) / ceil((end - start) / every))
        pieces.append(Segment(start, end, _window(np.stack(seen), s), presence))
    return pieces


def _window(boxes: np.ndarray, s: SegmentSettings) -> Window:
    """Around all boxes (N, 4), of the picture's own shape, inside the picture."""
    if s.margin is None:
        return PICTURE
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    side = float(np.clip((high - low).max() * (1 + 2 * s.margin), s.smallest_crop, 1))
    left, top = (float(edge) for edge in np.clip((low + high) / 2 - side / 2, 0, 1 - side))
    return (left, top, left + side, top + side)


def _distinct(segments: Sequence[Segment]) -> list[Segment]:
    """Without those that mostly show the time of another: the one in which the subject is seen more stays."""
    kept: list[Segment] = []
    for segment in sorted(segments, key=lambda x: (-x.presence * (x.end - x.start), x)):
        shared = (min(segment.end, k.end) - max(segment.start, k.start) for k in kept)
        if all(both <= ALIKE * (segment.end - segment.start) for both in shared):
            kept.append(segment)
    return kept
