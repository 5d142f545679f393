"""What the storyboard says of a film's priors: where each came from, and how it was learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from engine.retrieval import Candidate, Retrieval
from engine.story import read_image
from engine.video import read_video

STEP_NAMES = {
    "words": "words (BM25)", "attributes": "attributes", "subjects": "subject in view",
    "scorers": "scorers (CLIP, XCLIP)",
}  # fmt: skip
THUMB_WIDTH = 112  # pixels
SHOWN = 40  # rows of a step at most


@dataclass(frozen=True)
class StepShown:
    """One retrieval step: what it kept and why the others left."""

    name: str
    kept: tuple[tuple[str, str], ...]  # caption, scores in words
    count: int
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class Learned:
    """One prior. `pictures` are (image uint8 (H, W, 3), caption) of what it learned from; `curve` its losses."""

    kind: str
    name: str
    facts: Mapping[str, str]
    steps: tuple[StepShown, ...]
    pictures: tuple[tuple[np.ndarray, str], ...]
    curve: tuple[float, ...]


def learned_motion(name: str, card: Mapping[str, Any], files: Mapping[str, bytes], key: str) -> Learned:
    """From the prior's card and the result of its retrieval: retrieval.json and the selected clips."""
    found = Retrieval.model_validate_json(files["retrieval.json"])
    steps = tuple(_step(s.name, s.kept, s.dropped) for s in found.steps)
    videos = [files[n] for n in sorted(files) if n.endswith(".mp4")]
    pictures = tuple(
        (_strip(read_video(video)[0]), hit.caption) for video, hit in zip(videos, found.selected, strict=True)
    )
    asked = {"asked": f"“{found.query}” of {found.clips} clips"}
    return Learned("motion", name, {**asked, **_facts(card), "key": key}, steps, pictures, _curve(card))


def learned_subject(name: str, phrase: str, card: Mapping[str, Any], images: Sequence[bytes], key: str) -> Learned:
    """From the prior's card and its reference images."""
    pictures = tuple((_flat(data), f"reference image {n}") for n, data in enumerate(images, 1))
    return Learned("character", name, {"captions say": phrase, **_facts(card), "key": key}, (), pictures, _curve(card))


def _step(name: str, kept: Sequence[Candidate], dropped: Mapping[str, int]) -> StepShown:
    rows = tuple((c.caption, _scores(c)) for c in kept[:SHOWN])
    return StepShown(STEP_NAMES[name], rows, len(kept), dropped)


def _scores(candidate: Candidate) -> str:
    parts = {"BM25": candidate.bm25, "CLIP": candidate.clip, "XCLIP": candidate.xclip, "mean": candidate.score}
    return ", ".join(f"{name} {value:.2f}" for name, value in parts.items() if value is not None)


def _facts(card: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of a card that people ask for."""
    settings = card.get("settings", {})
    shown = {
        "rank": settings.get("rank"), "steps": card.get("steps"), "kept step": card.get("kept_step"),
        "held out": card.get("held_out"), "took": card.get("seconds"),
    }  # fmt: skip
    return {k: f"{v:.0f} s" if k == "took" else str(v) for k, v in shown.items() if v is not None}


def _curve(card: Mapping[str, Any]) -> tuple[float, ...]:
    """The loss over the steps, as plain numbers."""
    return tuple(float(point["loss"] if isinstance(point, Mapping) else point) for point in card.get("curve", ()))


def _strip(frames: np.ndarray) -> np.ndarray:
    """Four frames of a clip side by side, uint8 (H, 4 W, 3)."""
    picked = frames[np.linspace(0, len(frames) - 1, 4).round().astype(int)]
    return np.concatenate([_small(frame) for frame in picked], 1)


def _small(frame: np.ndarray) -> np.ndarray:
    height = round(frame.shape[0] * THUMB_WIDTH / frame.shape[1])
    return np.asarray(Image.fromarray(frame).resize((THUMB_WIDTH, height), Image.Resampling.LANCZOS))


def _flat(data: bytes) -> np.ndarray:
    """A reference image on grey, where it is transparent."""
    picture = read_image(data)
    ground = Image.new("RGBA", picture.size, "#9a9a9a")
    return _small(np.asarray(Image.alpha_composite(ground, picture).convert("RGB")))
