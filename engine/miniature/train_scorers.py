"""Trains the miniature's scorers: `python -m engine.miniature.train_scorers [clip] [xclip] [measure]`. Resumable.

Contrastive (InfoNCE in both directions, as CLIP), except that several texts of a batch may be true of a clip and
several clips fit a text ("it spins around"): all of them share the target. A second term (sigmoid, as SigLIP) puts true
pairs above a cosine of 0.2 and others below it, for the method's threshold takes cosines at their word.

CLIP learns from single frames; on the way its picture tower must also tell who is where and how turned, which the world
knows and captions hardly say. X-CLIP begins with CLIP's weights, as Ni et al. (2022) do, keeps that tower as it is, and
learns how frames follow each other. Its messages between frames inside the tower and its prompt generator stay unused
(engine/scorers.py says why).
"""

from __future__ import annotations

import hashlib
import json
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, XCLIPConfig, XCLIPModel

from engine.filling import add_clips
from engine.library import Library
from engine.library_settings import RetrievalSettings
from engine.miniature import clips, words
from engine.miniature.motions import FRAMES, make_track
from engine.miniature.settings import BUNDLE, TRAINING, TrainingSettings
from engine.miniature.stages import HEIGHT, WIDTH, paint
from engine.miniature.trainer import Trainer
from engine.miniature.world import draw
from engine.models import load_bundle
from engine.scorers import MEAN, STD, Scorers, normal, sample, squeeze, unit

SCORERS = BUNDLE / "scorers"
TRAININGS = {
    "clip": TrainingSettings(minutes=12, lr=1.5e-3, batch=64, warmup_steps=50, weight_decay=0.02, ema=0.99, seed=21),
    "xclip": TrainingSettings(minutes=5, lr=1e-3, batch=128, warmup_steps=50, weight_decay=0.02, ema=0.99, seed=22),
}
POOL, POOL_SEED = 6000, 20  # clips drawn once and kept as pixels
TOKENS = 24  # of a text, at most
WIDTH_OF_MODEL, IMAGE, PATCH = 96, 60, 12  # a frame is squeezed into a square of IMAGE pixels
EMBEDDING = 64
THRESHOLD = RetrievalSettings().threshold

CHARACTERS, STAGES = tuple(words.CHARACTERS), tuple(words.STAGES)


POSE = 6  # x, y, size, sine and cosine of the angle, facing

Facts = tuple[int, int, int]  # indices of character, motion and stage; -1 for what a text leaves out


class Sample(NamedTuple):
    """A clip with one actor: what it shows, the actor's pose in 8 frames (8, POSE), the frames uint8 (8, H, W, 3)."""

    facts: Facts
    poses: np.ndarray
    frames: np.ndarray


class Pool(NamedTuple):
    """The training's clips: facts (N, 3), poses (N, 8, POSE) of unit variance, and pixels uint8
    (N, 8, 3, IMAGE, IMAGE)."""

    facts: torch.Tensor
    poses: torch.Tensor
    pixels: torch.Tensor


class Learner(nn.Module):
    """A model with three heads upon its picture tower, which are not published."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.model = build_model(name)
        self.character, self.stage, self.pose = (
            nn.Linear(WIDTH_OF_MODEL, size) for size in (len(CHARACTERS), len(STAGES), POSE)
        )


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; the end token has the highest id, where both models look for it."""
    vocabulary = ["<pad>", "<unk>", *clips.vocabulary(), "</s>"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(",", "removed"), pre_tokenizers.Split(".", "removed")]
    )
    end = len(vocabulary) - 1
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TOKENS
    )


def build_model(name: str) -> CLIPModel | XCLIPModel:
    """A new model of the miniature's size."""
    width, end = WIDTH_OF_MODEL, len(build_tokenizer()) - 1
    tower = {"hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": width // 32}
    text = {
        **tower, "num_hidden_layers": 1, "vocab_size": end + 1, "max_position_embeddings": TOKENS, "pad_token_id": 0,
        "bos_token_id": end, "eos_token_id": end, "projection_dim": EMBEDDING,
    }  # fmt: skip
    vision = {**tower, "num_hidden_layers": 4, "image_size": IMAGE, "patch_size": PATCH, "projection_dim": EMBEDDING}
    if name == "clip":
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBEDDING))
        # drawn with deviation 0.02, a twentieth of the patches': where things are would be learned late or never
        model.vision_model.embeddings.position_embedding.weight.data.mul_(20)
        return model
    mit = {
        "mit_hidden_size": EMBEDDING, "mit_intermediate_size": 3 * EMBEDDING, "mit_num_hidden_layers": 2,
        "mit_num_attention_heads": 2, "num_frames": 8,
    }  # fmt: skip
    text.pop("projection_dim"), vision.pop("projection_dim")
    model = XCLIPModel(
        XCLIPConfig(
            text_config=text, vision_config={**vision, **mit}, projection_dim=EMBEDDING, prompt_layers=1,
            prompt_num_attention_heads=2,
        )
    )  # fmt: skip
    # transformers draws these with deviation 1, far above the frames' features: nothing is learned for long
    model.mit.position_embedding.data.mul_(0.02)
    return model


def draw_sample(rng: np.random.Generator) -> Sample:
    """One actor, any motion, any stage; only the frames that the scorers see are drawn."""
    actor, motion, stage = (int(rng.integers(n)) for n in (len(CHARACTERS), len(words.MOTIONS), len(STAGES)))
    size = float(rng.uniform(26, 34))
    way = make_track(words.MOTIONS[motion], rng, size, (0.0, float(WIDTH)))
    background = paint(STAGES[stage]).astype(np.float32)
    frames, poses = [], []
    for f in sample(np.arange(FRAMES)):
        x, y, now, angle, right = way.x[f], way.y[f], size * way.scale[f], way.angle[f], bool(way.right[f])
        layer = draw(CHARACTERS[actor], now, x, y, angle, right)
        frames.append(background * (1 - layer[..., 3:]) + layer[..., :3] * 255)
        turn = np.deg2rad(angle)
        poses.append((2 * x / WIDTH - 1, 2 * y / HEIGHT - 1, now / 15 - 2, np.sin(turn), np.cos(turn), 2 * right - 1))
    return Sample((actor, motion, stage), np.array(poses, np.float32), np.stack(frames).round().astype(np.uint8))


@cache
def draw_pool() -> Pool:
    """Drawn once, then read from disk."""
    file = TRAINING / f"scorers-{POOL}-{IMAGE}.safetensors"
    if not file.exists():
        samples = []
        for n in track(range(POOL), description="drawing clips"):
            clip = draw_sample(np.random.default_rng((POOL_SEED, n)))
            samples.append(clip._replace(frames=squeeze(clip.frames, IMAGE, IMAGE).round().to(torch.uint8)))
        facts, poses, seen = zip(*samples, strict=True)
        tensors = {
            "facts": torch.tensor(facts),
            "poses": torch.tensor(np.stack(poses)),
            "pixels": torch.stack(seen).contiguous(),
        }
        file.parent.mkdir(exist_ok=True)
        save_file(tensors, partial := Path(f"{file}.partial"))
        partial.replace(file)
    pool = Pool(**load_file(file))
    flat = pool.poses.flatten(0, 1)
    return pool._replace(poses=(pool.poses - flat.mean(0)) / flat.std(0))


def write_text(rng: np.random.Generator, facts: Facts, moving: float) -> tuple[str, Facts]:
    """A text about a clip, and which of its facts it states. It names the motion with probability `moving`, the actor
    and the stage in half of all texts."""
    says_actor, says_motion, says_stage = (bool(says) for says in rng.random(3) < (0.5, moving, 0.5))
    if not (says_motion or says_stage):
        says_actor = True
    character, motion, stage = CHARACTERS[facts[0]], words.MOTIONS[facts[1]], STAGES[facts[2]]
    parts = [clips.noun(rng, character) if says_actor else str(rng.choice(["it", "a person", "something", ""]))]
    if says_motion:
        parts.append(motion if rng.random() < 0.4 else str(rng.choice(clips.PHRASES[motion])))
        if rng.random() < 0.1:
            parts.append(str(rng.choice(words.ADVERBS)))
    if says_stage:
        parts.append(words.STAGES[stage][0])
    said = (facts[0] if says_actor else -1, facts[1] if says_motion else -1, facts[2] if says_stage else -1)
    return " ".join(part for part in parts if part), said


def contrastive(texts: torch.Tensor, videos: torch.Tensor, scale: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """InfoNCE over unit vectors (B, D) each; `true` (texts, videos) bool, at least one in each row and column."""
    logits, share = scale * texts @ videos.T, true.float()
    rows = -(logits.log_softmax(1) * share).sum(1) / share.sum(1)
    columns = -(logits.log_softmax(0) * share).sum(0) / share.sum(0)
    return (rows.mean() + columns.mean()) / 2


def calibration(texts: torch.Tensor, videos: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Sigmoid loss of the pairs' cosines around THRESHOLD; true and false pairs weigh the same."""
    above = 12 * (texts @ videos.T - THRESHOLD)
    return (F.softplus(-above)[true].mean() + F.softplus(above)[~true].mean()) / 2


def truth(said: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
    """Which texts (B, 3), -1 for what is left out, are true of which clips (B, 3): bool (texts, clips)."""
    return ((said[:, None] == facts[None]) | (said[:, None] < 0)).all(2)


def train(name: str) -> None:
    settings = TRAININGS[name]
    torch.manual_seed(settings.seed)
    learner, tokenizer = Learner(name), build_tokenizer()
    model = learner.model
    if name == "xclip":
        begin_with_clip(model)
    trainer = Trainer(name, learner, settings)
    if trainer.minutes >= settings.minutes:
        return
    pool = draw_pool()
    seen = tower_outputs(model, pool) if name == "xclip" else pool.pixels

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng, batch = np.random.default_rng((settings.seed, step)), settings.batch
        pick = torch.from_numpy(rng.choice(POOL, batch, replace=False))
        facts, extra, figures = pool.facts[pick], torch.zeros(()), {}
        if name == "clip":  # one frame of each
            frame = torch.from_numpy(rng.integers(8, size=batch))
            pooled = model.vision_model(normal(seen[pick, frame])).pooler_output
            video = unit(model.visual_projection(pooled))
            who = F.cross_entropy(learner.character(pooled), facts[:, 0])
            where = F.cross_entropy(learner.stage(pooled), facts[:, 2])
            pose = (learner.pose(pooled) - pool.poses[pick, frame]).square().mean()
            extra, figures = who + where + 4 * pose, {"who": who.item(), "where": where.item(), "pose": pose.item()}
        else:
            noise = 0.1 * torch.randn(batch, *seen.shape[1:], generator=torch.Generator().manual_seed(step))
            video = unit(model.mit(model.visual_projection(seen[pick] + noise)).pooler_output)
        written = [write_text(rng, fact, 0.5 if name == "clip" else 0.9) for fact in facts.tolist()]
        texts, said = zip(*written, strict=True)
        tokens = tokenizer(list(texts), padding=True, max_length=TOKENS, truncation=True, return_tensors="pt")
        text = unit(model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output)
        true = truth(torch.tensor(said), facts)
        value = contrastive(text, video, model.logit_scale.exp().clamp(max=50), true)
        sigmoid = calibration(text, video, true)
        best = true[torch.arange(batch), (text @ video.T).argmax(1)].float().mean()
        figures |= {"contrastive": value.item(), "sigmoid": sigmoid.item()}
        return value + sigmoid + extra, {"top1": float(best), **figures}

    trainer.run(loss, lambda ema: publish(name, ema, SCORERS / name))


def begin_with_clip(model: XCLIPModel) -> None:
    """Gives X-CLIP the published CLIP's towers. The pictures' is frozen, its messages between frames are nought."""
    weights = load_file(SCORERS / "clip" / "model.safetensors")
    # transformers misspells this layer in the one and not in the other
    named = {k.replace("pre_layrnorm", "pre_layernorm"): v.float() for k, v in weights.items()}
    model.load_state_dict(named, strict=False)
    for layer in model.vision_model.encoder.layers:
        for part in (layer.message_fc, layer.message_attn.out_proj):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
    model.vision_model.requires_grad_(False)


@torch.no_grad()
def tower_outputs(model: XCLIPModel, pool: Pool) -> torch.Tensor:
    """What the frozen tower makes of the pool's frames, (N, 8, WIDTH_OF_MODEL): computed once."""
    outputs = [model.vision_model(normal(part.flatten(0, 1))).pooler_output for part in pool.pixels.split(64)]
    return torch.cat(outputs).unflatten(0, (-1, 8))


def publish(name: str, ema: dict[str, torch.Tensor], folder: Path) -> None:
    """The model's folder: weights in bfloat16, tokenizer, and the colours it was trained with."""
    model: nn.Module = build_model(name)
    model.load_state_dict({k.removeprefix("model."): v for k, v in ema.items() if k.startswith("model.")})
    model.bfloat16().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    colours = {"image_mean": MEAN, "image_std": STD, "size": {"height": IMAGE, "width": IMAGE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(colours, indent=2) + "\n")


def measure() -> dict[str, Any]:
    """How well the published scorers do. `named`: share of 420 new clips whose motion (character, stage) they pick out
    of all. `retrieved`: for each library motion, the share of the retrieved clips that show it, and of as many that
    BM25 alone would take."""
    scorers, named = Scorers(SCORERS), {}
    new = [draw_sample(np.random.default_rng((POOL_SEED + 1, n))) for n in range(420)]
    seen = scorers.embed_clips([s.frames for s in new])
    asked = {
        "character": [words.article(c) for c in CHARACTERS], "motion": [f"it {m}" for m in words.MOTIONS],
        "stage": [words.STAGES[stage][0] for stage in STAGES],
    }  # fmt: skip
    for n, (fact, texts) in enumerate(asked.items()):
        text, true = scorers.embed_texts(texts), np.array([s.facts[n] for s in new])
        scores = {"clip": seen.clip @ text.clip.T, "xclip": seen.xclip @ text.xclip.T}
        scores["mean"] = (scores["clip"] + scores["xclip"]) / 2
        named[fact] = {name: round(float((x.argmax(1) == true).mean()), 3) for name, x in scores.items()}
        if fact == "motion":
            right = scores["xclip"].argmax(1) == true
            named["by motion"] = {m: round(float(right[true == i].mean()), 2) for i, m in enumerate(words.MOTIONS)}
    made = list(track(clips.library_clips(), description="drawing the library"))
    shows = {hashlib.sha256(c.video).hexdigest(): r.shows for c, r in zip(made, clips.recipes(), strict=True)}
    retrieved = {}
    with TemporaryDirectory() as folder:
        library = Library(folder, load_bundle("miniature"))
        add_clips(library, made)
        for motion in words.LIBRARY_MOTIONS:
            _, _, sound, kept = library.retrieve(motion).steps
            share = [
                np.mean([shows[c.id.partition("-")[0]] == motion for c in x])
                for x in (kept.kept, sound.kept[: len(kept.kept)])
            ]
            retrieved[motion] = {
                "clips": len(kept.kept), "scorers": round(float(share[0]), 3), "words": round(float(share[1]), 3),
                "least score": kept.kept[-1].score,
            }  # fmt: skip
    return {"named": named, "retrieved": retrieved}


if __name__ == "__main__":
    for chosen in sys.argv[1:] or TRAININGS:
        if chosen == "measure":
            print(json.dumps(measure()))
        else:
            train(chosen)
