"""What a training clip's words say, and which tokens hear them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from engine.miniature import words
from engine.plan import Box
from engine.regions import Grid, box_tokens


class Conditions(NamedTuple):
    """Captions, the background last, and for each the visual tokens that hear it: bool (captions, tokens)."""

    captions: list[str]
    heard: torch.Tensor


def plain_conditions(rng: np.random.Generator, note: dict[str, Any], grid: Grid) -> Conditions:
    """One caption for the whole clip, empty in one of ten (for guidance), with the actors' places in three of four."""
    stage, actors = note["stage"], sorted(note["actors"], key=lambda a: a["boxes"][0][0])
    place, empty = words.STAGES[stage]
    if rng.random() < 0.1:
        text = ""
    elif not actors:
        text = str(rng.choice([empty, place]))
    else:
        where = rng.random() < 0.75
        parts = []
        for actor in actors:
            middle = np.mean([(b[0] + b[2]) / 2 for b in actor["boxes"]])
            spot = f" {words.POSITIONS[min(int(middle * 3), 2)]}" if where else ""
            motions = " then ".join(motion for motion, _, _ in actor["acts"])
            parts.append(f"{_noun(rng, actor['name'])}{spot} {motions}")
        text = f"{' and '.join(parts)} {place}"
    return Conditions([text], torch.ones(1, grid.size, dtype=torch.bool))


def region_conditions(rng: np.random.Generator, note: dict[str, Any], grid: Grid) -> Conditions:
    """A caption for each actor and act, heard in its box: a box as a plan would give it, roomier than the actor, now
    and then one box that holds the whole path. The stage's words are heard elsewhere."""
    place, empty = words.STAGES[note["stage"]]
    captions, masks = [], []
    silent = rng.random() < 0.1
    for actor in note["actors"]:
        boxes = np.array(actor["boxes"])
        room = rng.uniform(0, [0.10, 0.14, 0.10, 0.14]) * [-1, -1, 1, 1]
        whole = rng.random() < 0.25
        name = _noun(rng, actor["name"])
        for motion, first, end in actor["acts"]:
            held = boxes[first:end]
            if whole:
                held = np.broadcast_to([*held[:, :2].min(0), *held[:, 2:].max(0)], held.shape)
            mask = torch.zeros(grid, dtype=torch.bool)
            for frame, box in zip(range(first, end), (held + room).clip(0, 1), strict=True):
                mask[frame][box_tokens(Box(*box), grid)] = True
            captions.append(f"{name} {motion} {place}")
            masks.append(mask.flatten())
    heard = torch.stack([*masks, torch.zeros(grid.size, dtype=torch.bool)])
    heard[-1] = ~heard.any(0)
    captions.append(str(rng.choice([empty, place])))
    return Conditions([""] * len(captions) if silent else captions, heard)


def _noun(rng: np.random.Generator, name: str) -> str:
    """ "a fox", now and then with a word around it that changes nothing."""
    if rng.random() < 0.15:
        name = f"{rng.choice([*words.ADJECTIVES, '<unk>'])} {name}"
    return f"the {name}" if rng.random() < 0.1 else words.article(name)
