"""The planner's language model: its files, and its process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open

from engine.errors import InputError
from engine.models import PlannerModel, load_bundle
from engine.planner_model import adapter_path, model_path, tuned

ROOT = Path(__file__).parent.parent.parent
MINIATURE = load_bundle("miniature")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_guarded_child_ends_with_its_parent(how: signal.Signals) -> None:
    code = (
        "import subprocess, time; from engine.chat import end_with_me\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "guard = end_with_me([child.pid, 2**22 - 1]); print(child.pid, guard.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert all(child.is_running() for child in children)
    parent.send_signal(how)
    parent.wait(10)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_a_planner_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    def bundle(**planner):
        return MINIATURE.model_copy(update={"planner": PlannerModel(**planner), "folder": tmp_path})

    with pytest.raises(InputError, match="names no planner"):
        model_path(MINIATURE.model_copy(update={"planner": None}))
    with pytest.raises(InputError, match="no GGUF file in the Python package yaml"):
        model_path(bundle(model="package:yaml"))
    with pytest.raises(InputError, match="no peft adapter lies in"):
        adapter_path(bundle(model="m", adapter="nowhere"))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"\(no adapter_model.safetensors\)"):
        tuned(bundle(model="here", adapter="half"))
    assert model_path(bundle(model="org/name")) == "org/name"
    (tmp_path / "here").mkdir()
    assert model_path(bundle(model="here")) == str(tmp_path / "here")


def test_the_adapter_is_in_the_weights_and_can_be_taken_out() -> None:
    folder, untuned = tuned(MINIATURE)
    base, adapter = Path(model_path(MINIATURE)), Path(adapter_path(MINIATURE))
    config = json.loads((adapter / "adapter_config.json").read_text())
    first = min(config["layers_to_transform"])

    def weight(file: Path, name: str) -> torch.Tensor:
        with safe_open(file, "pt") as data:
            return data.get_tensor(name).float()

    for layer in (first - 1, first, 29):
        for part in ("self_attn.q_proj", "mlp.down_proj"):
            name = f"model.layers.{layer}.{part}"
            before, after = (weight(Path(f) / "model.safetensors", f"{name}.weight") for f in (base, folder))
            if layer < first:
                assert torch.equal(before, after)
                continue
            learned, opposite = (
                weight(f / "adapter_model.safetensors", f"base_model.model.{name}.lora_B.weight")
                @ weight(f / "adapter_model.safetensors", f"base_model.model.{name}.lora_A.weight")
                * (config["lora_alpha"] / config["r"])
                for f in (adapter, Path(untuned))
            )
            assert learned.abs().max() > 0.01
            assert torch.allclose(after, before + learned, atol=1e-4, rtol=2**-8)  # bfloat16 has 8 bits
            assert torch.allclose(after + opposite, before, atol=2e-3, rtol=2**-7)


def test_a_model_without_an_adapter_is_loaded_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    bundle = MINIATURE.model_copy(update={"planner": PlannerModel(model="here"), "folder": tmp_path})
    assert tuned(bundle) == (str(tmp_path / "here"), None)
