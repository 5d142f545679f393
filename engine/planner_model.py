"""Where a bundle's planner model lies: a folder, a name on the hub, or a GGUF file inside an installed package."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from engine.errors import InputError
from engine.models import Bundle, PlannerModel

PACKAGE = "package:"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # of a peft adapter
UNTUNED = "untuned"  # the adapter's opposite


def planner_of(bundle: Bundle) -> PlannerModel:
    """The bundle's planner model. Raises InputError when it has none."""
    if bundle.planner is None:
        raise InputError(f"model {bundle.name}: its bundle.yaml names no planner; give a plan instead of a story")
    return bundle.planner


def planner_at(bundle: Bundle, url: str | None, model: str | None) -> Bundle:
    """The bundle with the planner model of that name at an OpenAI-compatible endpoint; as it is without a URL. The key
    is read from OPENAI_API_KEY by whoever asks. Raises InputError."""
    if url is None:
        if model is not None:
            raise InputError(f"--planner-model {model}: say where it is with --planner-url")
        return bundle
    if not re.match(r"https?://[^/\s@]+(/\S*)?$", url):
        raise InputError(
            f"--planner-url {url.split('@')[-1]}: must look like http://127.0.0.1:8000/v1, with no key in it"
        )
    if not model:
        raise InputError(f"--planner-url {url}: name the model there with --planner-model")
    return bundle.model_copy(update={"planner": PlannerModel(model=model, url=url, max_model_len=8192)})


def model_path(bundle: Bundle) -> str:
    """The model without its adapter, for transformers and vLLM. A GGUF file is first unpacked into the cache (15 s)."""
    name = planner_of(bundle).model
    if name.startswith(PACKAGE):
        return str(unpacked(_gguf_file(name.removeprefix(PACKAGE))))
    local = bundle.folder / name
    return str(local) if local.is_dir() else name


def adapter_path(bundle: Bundle) -> str | None:
    """The folder of the planner's LoRA, or None. Raises InputError when it is named and not there."""
    adapter = planner_of(bundle).adapter
    if adapter is None:
        return None
    folder = bundle.folder / adapter
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"model {bundle.name}: planner.adapter: no peft adapter lies in {folder} (no {', no '.join(missing)})"
        )
    return str(folder)


def _gguf_file(package: str) -> Path:
    """The package's GGUF file. None of the package's code is run."""
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    files = sorted(file for folder in folders for file in folder.rglob("*.gguf"))
    if not files:
        raise InputError(
            f"planner.model: no GGUF file in the Python package {package}; is it installed? (make install)"
        )
    return files[0]


def unpacked(gguf: Path) -> Path:
    """The model of a GGUF file as bfloat16 safetensors, with its tokenizer, in a cache folder named by its sha256."""
    with gguf.open("rb") as data:
        key = hashlib.file_digest(data, "sha256").hexdigest()

    def unpack(folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        model.save_pretrained(folder, safe_serialization=True)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)

    return _cached(key, unpack)


def tuned(bundle: Bundle) -> tuple[str, str | None]:
    """What vLLM loads: the model with the bundle's adapter in its weights, and the folder of a LoRA that takes it out
    again, for questions to the model as it was. A bundle without an adapter has its model, and no LoRA.

    In the weights since a LoRA beside them costs a CPU more than the model itself. Made in the cache by the first call.
    """
    base, adapter = model_path(bundle), adapter_path(bundle)
    if adapter is None:
        return base, None
    weights = Path(adapter) / WEIGHTS
    key = hashlib.sha256(base.encode() + weights.read_bytes() + (Path(adapter) / CONFIG).read_bytes()).hexdigest()

    def merge(folder: Path) -> None:
        import peft
        import torch
        from safetensors.torch import load_file, save_file
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        dtype = model.dtype  # the sum is rounded once
        merged = peft.PeftModel.from_pretrained(model.to(torch.float32), adapter).merge_and_unload()
        merged.to(dtype).save_pretrained(folder, safe_serialization=True)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        (folder / UNTUNED).mkdir()
        shutil.copy(Path(adapter) / CONFIG, folder / UNTUNED)
        opposite = {name: -value if ".lora_B." in name else value for name, value in load_file(weights).items()}
        save_file(opposite, folder / UNTUNED / WEIGHTS, {"format": "pt"})

    folder = _cached(key, merge)
    return str(folder), str(folder / UNTUNED)


def _cached(key: str, make: Callable[[Path], None]) -> Path:
    """The cache folder of that key, made when it is not there: beside its place and then renamed, so that it is whole
    or not at all, and processes may race."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dreamrunner" / "planner"
    folder = cache / key
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{key[:8]}.", dir=cache))
    try:
        make(partial)
        try:
            partial.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
