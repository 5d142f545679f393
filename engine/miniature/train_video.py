"""Trains the miniature's text encoder and transformer: `python -m engine.miniature.train_video plain`, then `default`.
Both are resumable.

`plain` gives one caption for everything, as CogVideoX was trained: what SR3AI does for it, it does untrained, as in the
paper. `default` goes on from there, and four of its steps in five give each actor's caption its box and the stage's
words the rest, as SR3AI does at inference.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler, CogVideoXTransformer3DModel
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from engine.attention import RegionAttnProcessor, attention_to_learn_through
from engine.groups import ALONE, Ranks
from engine.miniature import words
from engine.miniature.captions import Conditions, plain_conditions, region_conditions
from engine.miniature.settings import (
    CACHED_CLIPS,
    CLIPS_SEED,
    HEAD_DIM,
    HEADS,
    LATENT_CHANNELS,
    LAYERS,
    MAX_CONDITIONS,
    PIECE_UNTIL_MINUTES,
    PLAIN,
    TEXT_TOKENS,
    TEXT_WIDTH,
    TRAINING,
    VIDEO,
    VIDEO_TRAININGS,
    Checkpoint,
)  # fmt: skip
from engine.miniature.stages import HEIGHT, WIDTH
from engine.miniature.trainer import DTYPE, Trainer, arithmetic, read_published
from engine.miniature.world import FRAMES, KEYFRAMES, Clip, random_clip
from engine.regions import Grid
from engine.video_model import prepare_transformer

GRID = Grid(KEYFRAMES, HEIGHT // 8, WIDTH // 8)
SCHEDULER: dict[str, Any] = {
    "beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing", "snr_shift_scale": 1.0, "clip_sample": False,
}  # fmt: skip


class DenseMaskProcessor(RegionAttnProcessor):
    """For batches whose samples have different regions: `region_map` is an additive mask (B, 1, L, L)."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, region_map: Any) -> torch.Tensor:
        return attention_to_learn_through(q, k, v, region_map)


class TextAndVideo(nn.Module):
    """What is trained together: the text encoder and the transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = T5EncoderModel(
            T5Config(
                vocab_size=len(build_tokenizer()), d_model=TEXT_WIDTH, d_kv=32, num_heads=4, d_ff=256, num_layers=2,
                feed_forward_proj="gated-gelu", dropout_rate=0.0,
            )
        )  # fmt: skip
        self.transformer = CogVideoXTransformer3DModel(
            num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, num_layers=LAYERS, in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS, text_embed_dim=TEXT_WIDTH, max_text_seq_length=TEXT_TOKENS,
            time_embed_dim=128, patch_size=2, sample_height=HEIGHT // 4, sample_width=WIDTH // 4,
            sample_frames=4 * KEYFRAMES - 3, spatial_interpolation_scale=1.0, temporal_interpolation_scale=1.0,
        )  # fmt: skip


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the world. Words it has never seen become one token whose meaning is "ignore me"."""
    vocabulary = ["<pad>", "</s>", "<unk>", *words.SUBJECT_TOKENS, *words.vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(",", "removed"), pre_tokenizers.Split(".", "removed")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TEXT_TOKENS
    )


def describe(clip: Clip) -> dict[str, Any]:
    """What the training needs of a clip beside its latents: each actor's acts and its box in each latent frame."""
    actors = []
    for actor in clip.actors:
        b = actor.boxes.reshape(KEYFRAMES, FRAMES // KEYFRAMES, 4)
        union = np.concatenate([b[..., :2].min(1), b[..., 2:].max(1)], 1)
        acts = [(motion, first * KEYFRAMES // FRAMES, end * KEYFRAMES // FRAMES) for motion, first, end in actor.acts]
        actors.append({"name": actor.name, "acts": acts, "boxes": union.round(4).tolist()})
    return {"stage": clip.stage, "actors": actors}


@torch.no_grad()
def cache_latents(
    clips: int = CACHED_CLIPS, ranks: Ranks = ALONE
) -> tuple[torch.Tensor, torch.Tensor, list[dict[str, Any]]]:
    """Latents (clips, frames, channels, h, w) bfloat16 scaled to unit variance, the actors' share of each latent cell
    (clips, frames, h, w) uint8 0..255, and the clips' descriptions. Made once, in pieces, each by one of the ranks,
    then read from disk."""
    vae = AutoencoderKLCogVideoX.from_pretrained(VIDEO / "vae")
    size = min(250, clips)
    files = [TRAINING / "latents" / f"{piece:03d}.safetensors" for piece in range(clips // size)]
    files[0].parent.mkdir(parents=True, exist_ok=True)
    numbered = list(enumerate(files))
    _encode(vae, numbered[ranks.rank :: ranks.world_size], size, ranks.rank)
    if ranks.world_size > 1:
        import deepspeed.comm as ds

        ds.barrier()
        _encode(vae, numbered, size, ranks.rank)  # those of the others, when their disk is not ours
    pieces = [load_file(file) for file in files]
    notes = [note for file in files for note in _notes(file)]
    latents = torch.cat([p["latents"] for p in pieces])
    scale = float(1 / latents[:500].float().std())
    if ranks.rank == 0 and abs(vae.config.scaling_factor - scale) > 1e-3 * scale:
        # the pipeline's own way to know the latents' size
        vae.register_to_config(scaling_factor=scale, _name_or_path="")
        vae.bfloat16().save_pretrained(VIDEO / "vae")
    return latents.mul_(scale), torch.cat([p["cells"] for p in pieces]), notes


def _encode(vae: AutoencoderKLCogVideoX, numbered: list[tuple[int, Path]], size: int, rank: int) -> None:
    """Draws and encodes the clips of those pieces, (number, file), that are not there yet."""
    for piece, file in track(numbered, description="encoding clips"):
        if file.exists():
            continue
        latents, cells, notes = [], [], []
        for n in range(size):
            clip = random_clip(np.random.default_rng((CLIPS_SEED, 11, piece, n)))
            video = torch.from_numpy(clip.frames).permute(3, 0, 1, 2).float()[None] / 127.5 - 1
            with arithmetic():
                z = vae.encode(video).latent_dist.mode()
            latents.append(z[0].permute(1, 0, 2, 3).bfloat16())
            mask = np.zeros((FRAMES, HEIGHT, WIDTH), np.float32)
            for actor in clip.actors:
                mask = np.maximum(mask, actor.masks)
            cells.append((F.avg_pool3d(torch.from_numpy(mask)[None], 4)[0] * 255).to(torch.uint8))
            notes.append(describe(clip))
        partial = file.with_suffix(f".{rank}.partial")
        save_file({"latents": torch.stack(latents), "cells": torch.stack(cells)}, partial, {"clips": json.dumps(notes)})
        partial.replace(file)


def _notes(file: Path) -> list[dict[str, Any]]:
    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["clips"])


def additive_mask(conditions: list[Conditions]) -> torch.Tensor:
    """The dense SR3AI mask of a batch, (B, 1, L, L) with -inf where attention is not allowed. All samples have
    the same number of captions."""
    slots, visual = conditions[0].heard.shape
    text = slots * TEXT_TOKENS
    allowed = torch.zeros(len(conditions), text + visual, text + visual, dtype=torch.bool)
    allowed[:, text:, text:] = True
    for slot in range(slots):
        own = slice(slot * TEXT_TOKENS, (slot + 1) * TEXT_TOKENS)
        heard = torch.stack([sample.heard[slot] for sample in conditions])
        allowed[:, own, own] = True
        allowed[:, own, text:] = heard[:, None]
        allowed[:, text:, own] = heard[:, :, None]
    return torch.zeros(allowed.shape, dtype=DTYPE).masked_fill_(~allowed, float("-inf"))[:, None]


def piece_of(conditions: Conditions, first: int, frames: int) -> Conditions:
    """Who hears what in `frames` latent frames from `first` on."""
    heard = conditions.heard.unflatten(1, tuple(GRID))[:, first : first + frames].flatten(1)
    return Conditions(conditions.captions, heard)


def train(
    checkpoint: Checkpoint,
    ranks: Ranks = ALONE,
    minutes: float | None = None,
    clips: int = CACHED_CLIPS,
    report: Callable[[dict[str, float]], None] = lambda line: None,
) -> None:
    """Trains one of the two checkpoints, or goes on with it, until it has had `minutes` (default: the settings').

    Several ranks, in their process group already, share each batch; `clips` are drawn and encoded at first use;
    `report` gets every line of the log.
    """
    plain, settings = checkpoint is Checkpoint.plain, VIDEO_TRAININGS[checkpoint]
    settings = replace(settings, minutes=settings.minutes if minutes is None else minutes)
    folder = PLAIN if plain else VIDEO
    latents, cells, notes = cache_latents(clips, ranks)
    acts = np.array([sum(len(a["acts"]) for a in note["actors"]) for note in notes])
    alike = [np.flatnonzero(acts == n) for n in range(1, MAX_CONDITIONS)]  # as many captions each: none is padding
    share = np.array([len(clips) for clips in alike]) / sum(len(clips) for clips in alike)
    tokenizer = build_tokenizer()
    torch.manual_seed(settings.seed)
    model = TextAndVideo()
    prepare_transformer(model.transformer)
    model.transformer.set_attn_processor(DenseMaskProcessor())
    trainer = Trainer(checkpoint.value, model, settings, _files(folder), ranks)
    if not plain and not trainer.step:
        trainer.restart(read_published(_files(PLAIN)))
    alphas = CogVideoXDPMScheduler(**SCHEDULER).alphas_cumprod.float()

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng, batch = np.random.default_rng((settings.seed, 13, step, ranks.rank)), ranks.share(settings.batch)
        first, frames = 0, KEYFRAMES
        if trainer.minutes < PIECE_UNTIL_MINUTES[checkpoint]:  # looks first: more actors a step, at the same price
            first, frames, batch = int(rng.integers(0, KEYFRAMES - 1)), 2, 3 * batch
        model.transformer.patch_embed.first_frame = first
        torch.manual_seed(step * ranks.world_size + ranks.rank)
        regions = not plain and step % 5 != 0
        pool = alike[rng.choice(len(alike), p=share)] if regions else np.arange(len(notes))
        pick = rng.choice(pool, batch, replace=batch > len(pool))
        make = region_conditions if regions else plain_conditions
        conditions = [piece_of(make(rng, notes[i], GRID), first, frames) for i in pick]
        slots = len(conditions[0].captions)
        captions = [caption for c in conditions for caption in c.captions]
        ids = tokenizer(
            captions, padding="max_length", truncation=True, max_length=TEXT_TOKENS, return_tensors="pt"
        ).input_ids
        x0 = latents[torch.from_numpy(pick), first : first + frames].float()
        noise = torch.randn_like(x0)
        t = ((torch.arange(batch) + torch.rand(batch)) / batch * 1000).long()  # stratified
        a = alphas[t].view(-1, 1, 1, 1, 1)
        noisy, target = a.sqrt() * x0 + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * x0
        kwargs = {"region_map": additive_mask(conditions)} if regions else None
        with arithmetic():
            text = model.text_encoder(ids)[0].reshape(batch, slots * TEXT_TOKENS, TEXT_WIDTH)
            output = model.transformer(noisy, text, t, attention_kwargs=kwargs, return_dict=False)[0]
        weight = (1 + 5 * cells[torch.from_numpy(pick), first : first + frames].float() / 255)[:, :, None]
        error = (output.float() - target).square()
        value = (error * weight).sum() / (weight.sum() * LATENT_CHANNELS)
        return value, {"regions" if regions else "plain": float(value.detach())}

    def publish(ema: dict[str, torch.Tensor]) -> None:
        published = TextAndVideo()
        published.load_state_dict(ema, strict=False)  # the text encoder's tied embedding stands there once
        published.bfloat16()
        published.text_encoder.save_pretrained(folder / "text_encoder")
        published.transformer.save_pretrained(folder / "transformer")
        tokenizer.save_pretrained(folder / "tokenizer")
        CogVideoXDPMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
        if plain:
            shutil.copytree(VIDEO / "vae", folder / "vae", dirs_exist_ok=True)  # so that it is a whole pipeline
        index = {
            "_class_name": "CogVideoXPipeline", "scheduler": ["diffusers", "CogVideoXDPMScheduler"],
            "text_encoder": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
            "transformer": ["diffusers", "CogVideoXTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLCogVideoX"],
        }  # fmt: skip
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")

    trainer.run(loss, publish, report)


def main(
    checkpoint: Annotated[Checkpoint, typer.Argument(help="plain first; default goes on from it")] = Checkpoint.default,
) -> None:
    """Trains one of the miniature's two video checkpoints, or goes on with it."""
    train(checkpoint)


def _files(folder: Path) -> dict[str, Path]:
    """Prefix of the weights' names -> the file that `publish` writes them to."""
    return {
        "text_encoder.": folder / "text_encoder" / "model.safetensors",
        "transformer.": folder / "transformer" / "diffusion_pytorch_model.safetensors",
    }


if __name__ == "__main__":
    typer.run(main)
