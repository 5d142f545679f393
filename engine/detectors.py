"""Who finds the subjects in footage: YOLOS for real footage, the difference from a still background for a world whose
camera never moves. A bundle chooses (engine/library_settings.py); both answer alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from transformers import YolosForObjectDetection

from engine.errors import InputError
from engine.library_settings import BackgroundDetector, YolosDetector
from engine.scorers import normal, squeeze

# As the model was trained (COCO's recipe is ImageNet's colours).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 8  # frames that YOLOS sees at once
BACKGROUND_FRAMES = 64  # evenly spread, of which the median is the background

Boxes = np.ndarray  # float32 (N, 4): left, top, right, bottom in 0..1 of the picture


class Detector(Protocol):
    """Finds the subjects in a clip's frames, uint8 (H, W, 3), all of one size: boxes for each frame."""

    def __call__(self, frames: Iterable[np.ndarray]) -> list[Boxes]: ...


def make_detector(settings: YolosDetector | BackgroundDetector, folder: Path, device: str = "cpu") -> Detector:
    """The detector that a bundle in `folder` names. Raises InputError."""
    return Yolos(settings, folder, device) if isinstance(settings, YolosDetector) else Background(settings)


class Yolos:
    """YOLOS (Fang et al., 2021), a plain vision transformer with detection tokens."""

    def __init__(self, settings: YolosDetector, folder: Path, device: str) -> None:
        self.settings, self.device = settings, device
        place = folder / settings.model
        try:
            self.model = YolosForObjectDetection.from_pretrained(place if place.is_dir() else settings.model)
        except (OSError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise InputError(f"library.segments.detector.model: {settings.model} is no YOLOS model ({why})") from None
        self.model.eval().to(device)
        names = self.model.config.id2label
        self.wanted = [n for n, name in names.items() if name in settings.labels]
        if not self.wanted:
            there = ", ".join(list(names.values())[:10])
            raise InputError(
                f"library.segments.detector.labels: {settings.model} knows none of {', '.join(settings.labels)}; "
                f"it knows {there}, ..."
            )
        self.patch = self.model.config.patch_size

    def __call__(self, frames: Iterable[np.ndarray]) -> list[Boxes]:
        found: list[Boxes] = []
        rest: Iterator[np.ndarray] = iter(frames)
        while batch := list(islice(rest, BATCH)):
            found += self._detect(np.stack(batch))
        return found

    @torch.inference_mode()
    def _detect(self, frames: np.ndarray) -> list[Boxes]:
        """Of frames uint8 (B, H, W, 3); the model interpolates its positions to any size of whole patches."""
        height, width = (max(1, round(side / self.patch)) * self.patch for side in frames.shape[1:3])
        seen = normal(squeeze(frames, height, width), MEAN, STD).to(self.device)
        answer = self.model(pixel_values=seen)
        scores, labels = answer.logits.softmax(-1)[..., :-1].max(-1)  # the last class is "nothing"
        sure = (scores >= self.settings.threshold) & torch.isin(labels, torch.tensor(self.wanted, device=self.device))
        x, y, w, h = answer.pred_boxes.clamp(0, 1).unbind(-1)
        corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1).clamp(0, 1)
        return [boxes[mine].cpu().numpy() for boxes, mine in zip(corners, sure, strict=True)]


class Background:
    """Pixels unlike the clip's median picture, in connected parts. Who never moves is background."""

    def __init__(self, settings: BackgroundDetector) -> None:
        self.settings = settings

    def __call__(self, frames: Iterable[np.ndarray]) -> list[Boxes]:
        clip = np.stack(list(frames))
        every = -(-len(clip) // BACKGROUND_FRAMES)
        still = np.median(clip[::every], axis=0).astype(np.int16)
        return [
            self._boxes(np.abs(frame - still).max(-1) > self.settings.difference) for frame in clip.astype(np.int16)
        ]

    def _boxes(self, differs: np.ndarray) -> Boxes:
        """Of the parts of a mask (H, W); parts a thirtieth of the width apart are one."""
        height, width = differs.shape
        reach = max(1, width // 30)
        kernel = np.ones((reach, reach), np.uint8)
        mask = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
        _, _, parts, _ = cv2.connectedComponentsWithStats(mask)
        left, top, wide, high, area = parts[1:].T  # the first is everything else
        boxes = np.stack([left / width, top / height, (left + wide) / width, (top + high) / height], 1)
        return boxes[area >= self.settings.smallest * width * height].astype(np.float32)
