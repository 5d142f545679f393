"""Trains the miniature's planner adapter: a LoRA on the linear layers, on stories of the grammar and on told ones.

    python -m engine.miniature.train_planner
    python -m engine.miniature.train_planner --mean EARLIER.safetensors

Every other step is level 2 (one scene each), the others level 1 (a piece of a story); the loss is on the answer alone.
`--mean` trains nothing: the published adapter becomes the mean of itself and an earlier one of the same training, which
may understand more than either (Wortsman et al. 2022, "Model soups"; docs/planner.md has the figures).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import peft
import torch
import typer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.errors import InputError
from engine.miniature import words
from engine.miniature.grammar import SmallStory, make_story, scene_answer
from engine.miniature.settings import BUNDLE, TrainingSettings
from engine.miniature.told import told_story
from engine.miniature.trainer import DTYPE, Trainer, arithmetic
from engine.models import Bundle, load_bundle
from engine.plan import KEYFRAMES
from engine.planner_model import model_path
from engine.planner_outline import StoryScene
from engine.planner_prompts import before_of, scene_messages, sentences_at_once, story_messages

ADAPTER = BUNDLE / "planner"
WEIGHTS = ADAPTER / "adapter_model.safetensors"
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"  # what the adapter's config says it belongs to
TRAINING = TrainingSettings(minutes=540, lr=5e-3, batch=8, warmup_steps=10, weight_decay=0.0, ema=0.97, seed=5)


@dataclass(frozen=True)
class LoraSettings:
    """On every linear layer of the upper two thirds; the lower third, left as it is, needs no backward pass."""

    first_layer: int = 10  # of 30
    rank: int = 16
    alpha: int = 32
    stories: int = 10  # in a level-1 batch
    wrong_hint: float = 0.25  # of level-2 prompts: level 1 may err, and the narration is to be believed
    told: float = 0.8  # of the stories: those told, which no grammar made
    described: float = 0.3  # of level-2 prompts: what only describes is still in the narration, as level 1 may err


LORA = LoraSettings()
POOL = 8  # steps of a level whose questions are drawn together
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Pair = tuple[list[dict[str, str]], dict]  # messages, answer


class Trainable(torch.nn.Module):
    """The adapter's weights alone, under the names that they have in the adapter's file."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.weights = {n.replace(".default.", "."): p for n, p in model.named_parameters() if p.requires_grad}

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, torch.nn.Parameter]]:
        yield from self.weights.items()


def any_story(rng: random.Random, scenes: int) -> SmallStory:
    """A told story, or one of so many scenes by the grammar."""
    return told_story(rng) if rng.random() < LORA.told else make_story(rng, scenes)


def story_pairs(rng: random.Random, count: int, bundle: Bundle) -> list[Pair]:
    """Level 1: a piece of a story, as the planner cuts it, and its scenes."""
    pairs, most = [], sentences_at_once(bundle)
    for _ in range(count):
        story = any_story(rng, rng.randint(1, 4))
        first = rng.choice([n for n in range(len(story.sentences)) if not story.unsure(n)])
        place = story.place_before(first)
        messages = story_messages(bundle, story.sentences, first, most, story.characters, place)
        pairs.append((messages, story.answer(first, most)))
    return pairs


def scene_pairs(rng: random.Random, count: int, bundle: Bundle) -> list[Pair]:
    """Level 2: one scene, with those before, and who is where doing what."""
    pairs = []
    for _ in range(count):
        story = any_story(rng, 4)
        n = rng.randrange(len(story.scenes))
        scene, earlier = story.scenes[n], [before.narration for before in story.scenes[:n]]
        before, narration = before_of(earlier, [*words.BASE_CHARACTERS, *story.characters]), scene.narration
        if rng.random() >= LORA.described:
            before, narration = [*before, *scene.opening], " ".join(scene.telling)
        motions = scene.motions
        if rng.random() < LORA.wrong_hint:
            motions = [rng.choice(words.MOTIONS) if rng.random() < 0.6 else motion for motion in motions]
        outline = StoryScene(sentences=[1], place=scene.stage, motions=motions)
        messages = scene_messages(bundle, outline, narration, " ".join(before), story.characters)
        pairs.append((messages, scene_answer(scene)))
    return pairs


@lru_cache(4)
def _pool(level: str, number: int, bundle_name: str) -> list[list[Pair]]:
    """The level's questions for the next `POOL` steps, those of a step of about one length: padding costs time."""
    rng = random.Random(f"{TRAINING.seed}-{level}-{number}")
    make, size = (story_pairs, LORA.stories) if level == "story" else (scene_pairs, TRAINING.batch)
    pairs = make(rng, POOL * size, load_bundle(bundle_name))
    pairs.sort(key=lambda pair: len(pair[0][-1]["content"]) + len(json.dumps(pair[1])))
    batches = [pairs[n : n + size] for n in range(0, len(pairs), size)]
    rng.shuffle(batches)
    return batches


def batch_pairs(step: int, bundle: Bundle) -> tuple[str, list[Pair]]:
    """The level and the questions of a step: the two levels take turns."""
    level, turn = ("story", "scene")[step % 2], step // 2
    return level, _pool(level, turn // POOL, bundle.name)[turn % POOL]


def tokens_of(pairs: list[Pair], tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (batch, length), padded at the end, and the same with -100 where no loss is taken."""
    rows, labels = [], []
    for messages, answer in pairs:
        asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(asked, add_special_tokens=False).input_ids
        said = json.dumps(answer, separators=(",", ":")) + tokenizer.eos_token
        reply = tokenizer(said, add_special_tokens=False).input_ids
        rows.append(torch.tensor(prompt + reply))
        labels.append(torch.tensor([-100] * len(prompt) + reply))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, True, tokenizer.eos_token_id), pad(labels, True, -100)


def answer_loss(model: torch.nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the answers' tokens. The output head, a fifth of the model, sees those alone."""
    base = model.get_base_model()
    hidden = base.model(input_ids=ids).last_hidden_state  # causal, so padding at the end is never looked at
    said = labels[:, 1:] != -100
    logits = base.lm_head(hidden[:, :-1][said])
    return torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][said])


def write_adapter(weights: dict[str, torch.Tensor]) -> None:
    """Publishes the adapter's weights, in bfloat16."""
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in weights.items()}
    partial = Path(f"{WEIGHTS}.partial")
    save_file(tensors, partial, {"format": "pt"})
    partial.replace(WEIGHTS)


def mean_of(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean of two adapters, weight by weight. Raises InputError when their weights are not the same ones."""
    shapes = [{name: tuple(value.shape) for name, value in weights.items()} for weights in (one, other)]
    if shapes[0] != shapes[1]:
        raise InputError("not an adapter of this training: it has other weights")
    return {name: (one[name].float() + other[name].float()) / 2 for name in one}


def main(
    mean: Annotated[
        Path | None, typer.Option(help="an earlier adapter, to take the mean with", exists=True, dir_okay=False)
    ] = None,
) -> None:
    """Trains the miniature's planner adapter, or goes on with it."""
    if mean is None:
        train()
        return
    try:
        write_adapter(mean_of(load_file(WEIGHTS), load_file(mean)))
    except (InputError, SafetensorError) as error:
        raise SystemExit(f"{mean}: {error}") from None


def train() -> None:
    """Trains until the time budget is spent."""
    bundle = load_bundle("miniature")
    folder = model_path(bundle)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(TRAINING.seed)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPE)
    config = peft.LoraConfig(
        r=LORA.rank, lora_alpha=LORA.alpha, target_modules=list(LINEAR), task_type="CAUSAL_LM",
        layers_to_transform=list(range(LORA.first_layer, base.config.num_hidden_layers)), base_model_name_or_path=BASE,
    )  # fmt: skip
    model = peft.get_peft_model(base, config)
    weights = Trainable(model)
    trainer = Trainer("planner", weights, TRAINING, {"": WEIGHTS})

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        level, pairs = batch_pairs(step, bundle)
        ids, labels = tokens_of(pairs, tokenizer)
        with arithmetic():
            value = answer_loss(model, ids, labels)
        return value, {level: float(value.detach())}

    def publish(ema: dict[str, torch.Tensor]) -> None:
        ADAPTER.mkdir(exist_ok=True)
        write_adapter(ema)
        settings = config.to_dict() | {"base_model_name_or_path": BASE, "inference_mode": True}
        settings["target_modules"] = sorted(settings["target_modules"])
        settings = {key: value.value if hasattr(value, "value") else value for key, value in settings.items()}
        (ADAPTER / "adapter_config.json").write_text(json.dumps(settings, indent=1, default=str) + "\n")

    trainer.run(loss, publish)


if __name__ == "__main__":
    assert KEYFRAMES == 6, "the grammar writes six keyframes"
    typer.run(main)
