"""The miniature's training by Ray Train: two workers with DeepSpeed, and then one that goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent.parent
CODE = """
import sys
from cluster.local import ray_cluster
from cluster.pretrain import pretrain
from engine.miniature.settings import Checkpoint
workers, minutes = int(sys.argv[1]), float(sys.argv[2])
with ray_cluster(None, workers):
    pretrain(Checkpoint.default, workers, minutes, clips=24)
"""


@pytest.mark.cluster
def test_two_workers_train_and_one_goes_on(tmp_path: Path) -> None:
    source = ROOT / "engine" / "miniature"
    for part in ("bundle", "plain"):
        if (source / part).exists():
            shutil.copytree(source / part / "video", tmp_path / part / "video")
    began = load_file(tmp_path / "plain" / "video" / "transformer" / "diffusion_pytorch_model.safetensors")

    def train(workers: int, minutes: float) -> tuple[int, float]:
        env = {**os.environ, "DREAMRUNNER_MINIATURE": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(workers), str(minutes)], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        with safe_open(tmp_path / ".training" / "default.safetensors", "pt") as file:
            meta = file.metadata()
        return int(meta["step"]), float(meta["minutes"])

    steps, minutes = train(2, 0.1)
    assert steps >= 1 and minutes >= 0.1
    more, later = train(1, minutes + 0.05)
    assert more > steps and later > minutes
    index = json.loads((tmp_path / "bundle" / "video" / "model_index.json").read_text())
    assert index["_class_name"] == "CogVideoXPipeline"
    trained = load_file(tmp_path / "bundle" / "video" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert any((trained[key].float() - began[key].float()).abs().max() > 0 for key in began)
