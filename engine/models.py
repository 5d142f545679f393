"""Model bundles: one folder, or one bundle.yaml, names all that the engine must know about a model."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.cost import Shape
from engine.errors import InputError
from engine.library_settings import LibraryOf
from engine.plan import NONE, Plan

HERE = Path(__file__).parent
BUILT_IN = {
    "miniature": HERE / "miniature" / "bundle",
    "miniature-plain": HERE / "miniature" / "plain",
    "cogvideox-2b": HERE / "bundles" / "cogvideox-2b",
}


def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU does (AVX-512 BF16). Where it is only emulated, float32 is many times as fast."""
    import torch  # by whoever only reads bundles it is not needed

    return torch.cpu._is_avx512_bf16_supported()


class Words(BaseModel):
    """The closed vocabulary of a model that knows only so much; absent for models that read any text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    characters: tuple[str, ...]
    motions: tuple[str, ...]
    stages: tuple[str, ...]
    places: dict[str, tuple[str, str]] = {}  # stage -> where one is on it, and what the empty stage is called
    landmarks: dict[str, tuple[str, ...]] = {}  # stage -> what is found there alone ("between the corals")
    library_motions: tuple[str, ...] = ()  # not known, but its library has clips to learn them from


class PlannerModel(BaseModel):
    """The language model that plans. `model` is a folder beside bundle.yaml, a name on the hub, or `package:NAME`, a
    GGUF file inside an installed Python package; `adapter` a LoRA beside bundle.yaml in peft's format. With a `url` it
    is the model of that name at an OpenAI-compatible endpoint, whose key is in the variable `key_variable`. A small
    model loses count in long stories: it is asked about so many `sentences_at_once`; None: as many as fit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    adapter: str | None = None
    url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    max_model_len: Annotated[int, Field(ge=512)] = 2048
    sentences_at_once: Annotated[int, Field(ge=1)] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None  # None: bfloat16 where the machine multiplies it


class PriorSettings(BaseModel):
    """How a LoRA is learned (method: 500 steps, rank 32, lr 5e-4, batch 1 for CogVideoX).

    `steps` are the most: every `check_every` steps the loss is looked at, on fixed noise; the best are kept, and after
    `patience` looks without a better one learning ends. `precision`: "model" computes in the model's own dtype,
    "bfloat16" under autocast, "auto" does that only for a float32 model on a CPU that multiplies bfloat16.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: Annotated[int, Field(ge=1, le=256)] = 32
    steps: Annotated[int, Field(ge=1, le=100_000)] = 500
    subject_steps: Annotated[int, Field(ge=1, le=100_000)] = 160
    subject_frames: Annotated[int, Field(ge=1)] | None = None  # latent frames of a static clip; None: all
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    subject_learning_rate: Annotated[float, Field(gt=0)] | None = None  # None: the same for subjects
    batch: Annotated[int, Field(ge=1)] = 1
    subject_batch: Annotated[int, Field(ge=1)] | None = None  # None: the same for subjects
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the weights' average, which is kept; 0: the last ones
    check_every: Annotated[int, Field(ge=1)] = 20
    patience: Annotated[int, Field(ge=1)] = 5
    workers: Annotated[int, Field(ge=1)] = 1  # that learn one prior together, each from its share of clips and batch
    precision: Literal["auto", "model", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False  # a third more work for far less memory
    placement: Literal["interleaved", "halves"] = "interleaved"  # of motions' and subjects' blocks; halves: an ablation
    video_loras: bool = True  # a LoRA of its own for each training video; without: an ablation

    def of_subject(self) -> PriorSettings:
        """The same with a subject's steps, learning rate and batch in the places of a motion's."""
        return self.model_copy(
            update={
                "steps": self.subject_steps,
                "learning_rate": self.subject_learning_rate or self.learning_rate,
                "batch": self.subject_batch or self.batch,
            }
        )


class Memory(BaseModel):
    """GB that each part needs at the bundle's dtype on a GPU, and activations of one clip."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transformer: float
    text_encoder: float
    vae: float
    activations: float

    @property
    def of_two_scenes(self) -> float:
        """While one is decoded and the captions of the next are read, or its steps are made."""
        return self.transformer + self.vae + self.activations + max(self.text_encoder, self.activations)


class Sizes(BaseModel):
    """A transformer's layers, attention heads and their width; a clip's latent frames and visual tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: Annotated[int, Field(ge=1)]
    heads: Annotated[int, Field(ge=1)]
    head_dim: Annotated[int, Field(ge=1)]
    frames: Annotated[int, Field(ge=1)]
    visual: Annotated[int, Field(ge=1)]


class Bundle(BaseModel):
    """A video model with its sizes and defaults. `video` is a folder in diffusers' format (beside bundle.yaml or
    absolute) or a model name on the hub."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    license: str
    video: str
    folder: Path = Field(exclude=True)
    height: Annotated[int, Field(gt=0, multiple_of=2)]
    width: Annotated[int, Field(gt=0, multiple_of=2)]
    num_frames: Annotated[int, Field(gt=0)]
    fps: Annotated[int, Field(gt=0)] = 8
    text_tokens: Annotated[int, Field(gt=0)]
    num_inference_steps: Annotated[int, Field(gt=0)]
    guidance_scale: Annotated[float, Field(ge=1)]
    dtype: Literal["float32", "bfloat16", "float16"]
    view_scale: Annotated[int, Field(ge=1)] = 1
    memory_gb: Memory
    sizes_on_hub: Sizes | None = None  # of a model that is on the hub; a local one's are read from its configs
    words: Words | None = None
    planner: PlannerModel | None = None
    library: LibraryOf = LibraryOf()
    priors: PriorSettings = PriorSettings()

    @property
    def video_path(self) -> str:
        """Where diffusers finds the pipeline: a folder that exists, else a name on the hub."""
        local = self.folder / self.video
        return str(local) if local.is_dir() else self.video

    @cached_property
    def shape(self) -> Shape | None:
        """From a local model's configs, or as the bundle says; None for a model on the hub whose bundle is silent."""
        configs = [Path(self.video_path) / part / "config.json" for part in ("transformer", "vae")]
        sizes = self.sizes_on_hub
        if all(file.is_file() for file in configs):
            transformer, vae = (json.loads(file.read_text()) for file in configs)
            space = 2 ** (len(vae["block_out_channels"]) - 1) * transformer["patch_size"]
            frames = (self.num_frames - 1) // int(vae["temporal_compression_ratio"]) + 1
            sizes = Sizes(
                layers=transformer["num_layers"], heads=transformer["num_attention_heads"],
                head_dim=transformer["attention_head_dim"], frames=frames,
                visual=frames * (self.height // space) * (self.width // space),
            )  # fmt: skip
        width = {"float32": 4}.get(self.dtype, 2)
        return Shape(**sizes.model_dump(), text=self.text_tokens, bytes_per_weight=width) if sizes else None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the bundle's own settings and, for a local model, every file of it."""
        others = {"license", "memory_gb", "sizes_on_hub", "words", "planner", "library", "priors"}
        return _digest(self.model_dump_json(exclude=others), Path(self.video_path))

    @property
    def base(self) -> str:
        """What LoRA files call the model that they were learned for."""
        return f"{self.name} {self.fingerprint[:16]}"

    @cached_property
    def library_fingerprint(self) -> str:
        """The same of what decides which clips are found, but for what users add: the first clips and the scorers."""
        scorers = self.folder / self.library.scorers if self.library.scorers else HERE / "none"
        return _digest(self.library.model_dump_json(), scorers)

    @cached_property
    def planner_fingerprint(self) -> str:
        """The same of what decides a plan: the language model's name, its adapter, the words and the prompts."""
        adapter = self.folder / self.planner.adapter if self.planner and self.planner.adapter else HERE / "none"
        return _digest(self.model_dump_json(include={"words", "planner"}), adapter, HERE / "prompts")

    def check_gpu(self, gigabytes: float, name: str) -> None:
        """Raises InputError when a clip of this model cannot be made on a GPU of so much memory."""
        m = self.memory_gb
        needed = m.transformer + m.vae + max(m.text_encoder, m.activations)
        if needed > gigabytes:
            raise InputError(
                f"{self.name} needs {needed:.1f} GB on a GPU (transformer {m.transformer:g}, VAE {m.vae:g}, and the "
                f"larger of text encoder {m.text_encoder:g} and activations {m.activations:g}), but {name} has "
                f"{gigabytes:.1f}; take a larger GPU or a smaller model"
            )

    def check_plan(self, plan: Plan, name: str = "plan") -> None:
        """Raises InputError for what this model cannot draw or read."""
        for n, scene in enumerate(plan.scenes):
            at = f"{name}: scenes.{n} ({scene.id})"
            texts = {
                "background": scene.background,
                **{f"regions.{i}.caption": r.caption for i, r in enumerate(scene.regions)},
            }
            for field, text in texts.items():
                if len(text.split()) >= self.text_tokens:
                    limit = self.text_tokens - 1
                    raise InputError(f"{at}: {field}: {len(text.split())} words, but {self.name} reads at most {limit}")
            if self.words is None:
                continue
            if not any(stage in scene.background.lower().split() for stage in self.words.stages):
                raise InputError(
                    f"{at}: background: {scene.background!r} names no stage that {self.name} knows; "
                    f"use one of {', '.join(self.words.stages)}"
                )
            for i, region in enumerate(scene.regions):
                for field, value, known in (
                    ("entity", region.entity, (*self.words.characters, *plan.characters)),
                    ("motion", region.motion, (*self.words.motions, *self.words.library_motions)),
                ):
                    if value not in known and value != NONE:
                        choice = ", ".join(known)
                        raise InputError(
                            f"{at}: regions.{i}.{field}: {self.name} does not know {value!r}; use one of {choice}"
                        )


def _digest(settings: str, *folders: Path) -> str:
    digest = hashlib.sha256(settings.encode())
    for folder in folders:
        for file in sorted(f for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else ():
            digest.update(f"{file.relative_to(folder)}\0".encode())
            with file.open("rb") as data:
                digest.update(hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()


def load_bundle(name: str) -> Bundle:
    """The bundle of a built-in name or of a folder that holds a bundle.yaml. Raises InputError."""
    folder = BUILT_IN.get(name, Path(name))
    file = folder / "bundle.yaml"
    if not file.is_file():
        raise InputError(
            f"--model {name}: no such model; use {', '.join(BUILT_IN)}, or a folder that holds a bundle.yaml"
        )
    try:
        return Bundle.model_validate({**yaml.safe_load(file.read_text()), "folder": folder})
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error).splitlines()[0]
        raise InputError(f"{file}: {why}") from None
