"""The two models that judge how well a clip fits a text: CLIP sees single frames, X-CLIP how they follow each other.

Both are folders in transformers' format with their tokenizer, so a published pair (such as clip-vit-base-patch32 and
xclip-base-patch32) stands in for the miniature's by its folder alone. The method's paper names ViCLIP as the second;
X-CLIP is the video-text model that transformers has. It is used as two towers: the text's embedding does not depend on
the video (X-CLIP's own forward adds a prompt that does), for embeddings are stored once and compared with any text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, CLIPModel, XCLIPModel
from transformers.utils import logging

from engine.errors import InputError

logging.disable_progress_bar()  # a bar for each folder of weights, on top of our own

FRAMES = 8  # that the scorers see of a clip, evenly spread (method: CLIP averages 8; ViCLIP takes 8)
# As CLIP was trained (Radford et al., 2021); a folder's preprocessor_config.json may say otherwise.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Embeddings(NamedTuple):
    """Unit vectors, float32: clip (N, D) and xclip (N, D'), of N texts or N clips."""

    clip: np.ndarray
    xclip: np.ndarray


class Tower:
    """One of the two models with its tokenizer and the picture size and colours that it wants."""

    def __init__(self, folder: Path, model_class: type[CLIPModel] | type[XCLIPModel], device: str) -> None:
        if not (folder / "config.json").is_file():
            raise InputError(f"scorers: {folder} is no model folder; library.scorers must name one with clip and xclip")
        self.model = model_class.from_pretrained(folder, dtype=torch.float32).eval().to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        size = self.model.config.vision_config.image_size
        self.picture: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)  # height, width
        self.device = device
        file = folder / "preprocessor_config.json"
        colours: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        self.mean, self.std = colours.get("image_mean", MEAN), colours.get("image_std", STD)

    @property
    def size(self) -> int:
        """Of an embedding."""
        return self.model.config.projection_dim

    def tokens(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        limit = self.model.config.text_config.max_position_embeddings
        given = self.tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        return {key: given[key].to(self.device) for key in ("input_ids", "attention_mask")}

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return unit(self.model.get_text_features(**self.tokens(texts)).pooler_output).cpu().numpy()

    @torch.inference_mode()
    def embed_clips(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Of clips of any length and size, uint8 (T, H, W, 3)."""
        seen = torch.stack([squeeze(sample(clip), *self.picture) for clip in clips])
        return embed_frames(self.model, normal(seen, self.mean, self.std).to(self.device)).cpu().numpy()


class Scorers:
    """Both towers of a scorers folder: `clip` and `xclip`."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.folder = folder
        self.clip = Tower(folder / "clip", CLIPModel, device)
        self.xclip = Tower(folder / "xclip", XCLIPModel, device)

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        return Embeddings(self.clip.embed_texts(texts), self.xclip.embed_texts(texts))

    def embed_clips(self, clips: Sequence[np.ndarray]) -> Embeddings:
        """Of clips, each uint8 (T, H, W, 3)."""
        return Embeddings(self.clip.embed_clips(clips), self.xclip.embed_clips(clips))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over every file of both."""
        return fingerprint(self.folder)


def fingerprint(folder: Path) -> str:
    """sha256 over the folder's files with their names; of an absent folder, that of nothing."""
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        digest.update(f"{file.relative_to(folder)}\0".encode())
        with file.open("rb") as data:
            digest.update(hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()


def sample(frames: np.ndarray, count: int = FRAMES) -> np.ndarray:
    """`count` frames of a clip (T, ...), each the middle of an equal part of it; of a short clip some twice."""
    return frames[[(2 * n + 1) * len(frames) // (2 * count) for n in range(count)]]


def squeeze(frames: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Frames uint8 (T, H, W, 3) in a model's size: float32 (T, 3, height, width), 0..255. The whole picture is squeezed
    into the model's square (as ViCLIP does; CLIP's own recipe crops the middle): actors at the edges count."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    if x.shape[2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)


def normal(x: torch.Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> torch.Tensor:
    """Pixels 0..255 (..., 3, H, W) with each colour shifted and scaled as a model wants it, float32."""
    return (x.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def embed_frames(model: CLIPModel | XCLIPModel, seen: torch.Tensor) -> torch.Tensor:
    """Unit vectors (B, D) of clips (B, T, 3, H, W). CLIP: the mean over the frames' unit vectors; X-CLIP: the whole."""
    if isinstance(model, XCLIPModel):
        return unit(model.get_video_features(seen).pooler_output)
    each = unit(model.get_image_features(seen.flatten(0, 1)).pooler_output)
    return unit(each.unflatten(0, seen.shape[:2]).mean(1))


def unit(x: torch.Tensor) -> torch.Tensor:
    return F.normalize(x.float(), dim=-1)
