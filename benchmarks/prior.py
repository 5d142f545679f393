"""What a motion prior and a subject prior change on the miniature, and what they cost: `python -m benchmarks.prior`.

Draws docs/priors.png: a character that was in no clip does the new motion, then a character known by one picture
alone; for each scene before and after, and a true clip at the end. Last line: one JSON object with seconds, losses, and
what the judge sees (share of renders whose motion is the one asked for, likeness of the character where it is found,
share of frames in which it is).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image

from engine.adapters import region_loras
from engine.lora import load_lora, remove_lora
from engine.miniature import words
from engine.miniature.judge import judge_scene
from engine.miniature.world import SPRITES, random_clip
from engine.models import PriorSettings, load_bundle
from engine.plan import KEYFRAMES, Box, Region, Scene
from engine.priors import Prior, TrainingClip, learn_motion, learn_subject
from engine.regions import region_map
from engine.scene import render_scene
from engine.settings import RenderSettings
from engine.video_model import VideoModel

DOCS = Path(__file__).parent.parent / "docs"
STAGES = ("forest", "desert", "snow", "city")
MOMENTS = 6


def clips_of(motion: str, count: int, without: str) -> list[TrainingClip]:
    """Clips of base characters doing the motion, the one that will be rendered not among them."""
    cast = tuple(c for c in words.BASE_CHARACTERS if c != without)
    made = [random_clip(np.random.default_rng((8, n)), cast, (motion,), actors=1, changes=0) for n in range(count)]
    return [
        TrainingClip(f"clip {n}", words.caption(clip.actors[0].name, motion, clip.stage), clip.frames)
        for n, clip in enumerate(made)
    ]


def scene(name: str, phrase: str, motion: str, stage: str, box: Box) -> Scene:
    place, empty = words.STAGES[stage]
    region = Region(
        entity=name, motion=motion, caption=f"{words.article(phrase)} {motion} {place}",
        boxes=dict.fromkeys(range(1, KEYFRAMES + 1), box),
    )  # fmt: skip
    return Scene(id=f"prior-{stage}", background=empty, regions=(region,))


def render(model: VideoModel, scenes: Sequence[Scene], prior: Prior | None = None) -> list[np.ndarray]:
    """The scenes' frames, with the prior in its region or without."""
    b = model.bundle
    settings = RenderSettings(num_inference_steps=b.num_inference_steps, guidance_scale=b.guidance_scale)
    if prior:
        load_lora(model.transformer, prior.weights, "prior")
    films = []
    for s in scenes:
        mask = region_map(s, model.grid, b.text_tokens).token_mask(lambda region: True)
        with region_loras(model.transformer, {"prior": mask} if prior else {}):
            films.append(model.decode(render_scene(model, s, 0, settings)).numpy())
    if prior:
        remove_lora(model.transformer, "prior")
    return films


def verdict(films: Sequence[np.ndarray], scenes: Sequence[Scene]) -> dict[str, float | None]:
    """What the judge sees of the one character of each scene."""
    seen = [judge_scene(film, s).characters[0] for film, s in zip(films, scenes, strict=True)]
    likeness = [c.likeness for c in seen if c.likeness is not None]
    return {
        "motion": sum(c.motion_seen == c.motion for c in seen) / len(seen),
        "likeness": round(sum(likeness) / len(likeness), 3) if likeness else None,
        "found": round(sum(c.found for c in seen) / sum(c.frames for c in seen), 3),
    }


def strip(film: np.ndarray) -> np.ndarray:
    return np.concatenate(list(film[2 :: len(film) // MOMENTS][:MOMENTS]), 1)


def learned(prior: Prior, cpu_seconds: float) -> dict[str, Any]:
    card = prior.card
    return {
        "seconds": card["seconds"], "cpu_seconds": round(cpu_seconds, 1), "steps": card["steps"],
        "loss_before": card["loss_before"], "loss_after": card["loss_after"], "bytes": len(prior.weights),
    }  # fmt: skip


def main(
    motion: str = "zigzags across",
    character: str = "fox",
    subject: str = "pumpkin",
    clips: Annotated[int, typer.Option(min=1)] = 12,
    scenes: Annotated[int, typer.Option(min=1, max=len(STAGES))] = 2,
    steps: Annotated[int, typer.Option(help="0: the bundle's")] = 0,
    subject_steps: Annotated[int, typer.Option(help="0: the bundle's")] = 0,
    batch: Annotated[int, typer.Option(help="0: the bundle's")] = 0,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    picture: Path = DOCS / "priors.png",
    keep: Annotated[Path | None, typer.Option(help="a folder for the LoRA files and cards")] = None,
) -> None:
    """Learns both priors and renders with and without them."""
    torch.set_num_threads(threads)
    model = VideoModel(load_bundle("miniature"))
    chosen = {"steps": steps, "subject_steps": subject_steps, "batch": batch}
    settings: PriorSettings = model.bundle.priors.model_copy(update={k: v for k, v in chosen.items() if v})

    def report(done: int, total: int) -> None:
        print(f"\rstep {done} of {total}", end="\n" if done == total else "", flush=True)

    rows, results = [], {}
    whole, part = Box(0, 0, 1, 1), Box(0.25, 0.2, 0.75, 1)
    for kind, name, phrase, does, box in (
        ("motion", character, character, motion, whole),
        ("subject", subject, f"[v1] {subject}", "stands still", part),
    ):
        wanted = [scene(name, phrase, does, stage, box) for stage in STAGES[:scenes]]
        true = random_clip(np.random.default_rng(2), (name,), (does,), actors=1, changes=0).frames
        began = time.process_time()
        if kind == "motion":
            prior = learn_motion(model, clips_of(does, clips, name), settings, 0, report)
        else:
            prior = learn_subject(model, [Image.open(SPRITES / f"{name}.png")], phrase, settings, 0, report)
        spent = time.process_time() - began
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{kind}.safetensors").write_bytes(prior.weights)
            (keep / f"{kind}.json").write_text(json.dumps(prior.card))
        before, after = render(model, wanted), render(model, wanted, prior)
        rows += [strip(film) for pair in zip(before, after, strict=True) for film in pair] + [strip(true)]
        results[kind] = {
            **learned(prior, spent), "before": verdict(before, wanted), "after": verdict(after, wanted),
        }  # fmt: skip
        print(json.dumps({kind: results[kind]}), flush=True)
        sheet = Image.fromarray(np.concatenate(rows))
        picture.parent.mkdir(parents=True, exist_ok=True)
        sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.LANCZOS).save(picture, optimize=True)
    print(json.dumps({"motion_name": motion, "subject_name": subject, "clips": clips, "threads": threads, **results}))


if __name__ == "__main__":
    typer.run(main)
