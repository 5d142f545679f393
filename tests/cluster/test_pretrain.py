"""The miniature's training by Ray Train: two workers with DeepSpeed, and then one that goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent.parent
CODE = """
import json
from safetensors import safe_open
from cluster.local import ray_cluster
from cluster.pretrain import pretrain
from engine.miniature.settings import TRAINING, Checkpoint
with ray_cluster(None, 2):
    minutes = 0.1
    for workers in (2, 1):
        pretrain(Checkpoint.default, workers, minutes, clips=8)
        with safe_open(TRAINING / "default.safetensors", "pt") as file:
            meta = file.metadata()
        minutes = float(meta["minutes"]) + 0.05
        print(json.dumps([int(meta["step"]), float(meta["minutes"])]), flush=True)
"""


@pytest.mark.cluster
def test_two_workers_train_and_one_goes_on(tmp_path: Path) -> None:
    source = ROOT / "engine" / "miniature"
    for part in ("bundle", "plain"):
        if (source / part).exists():
            shutil.copytree(source / part / "video", tmp_path / part / "video")
    began = load_file(tmp_path / "plain" / "video" / "transformer" / "diffusion_pytorch_model.safetensors")

    env = {**os.environ, "DREAMRUNNER_MINIATURE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    (steps, minutes), (more, later) = said[-2:]
    assert steps >= 1 and minutes >= 0.1
    assert more > steps and later > minutes
    index = json.loads((tmp_path / "bundle" / "video" / "model_index.json").read_text())
    assert index["_class_name"] == "CogVideoXPipeline"
    trained = load_file(tmp_path / "bundle" / "video" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert any((trained[key].float() - began[key].float()).abs().max() > 0 for key in began)
