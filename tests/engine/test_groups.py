"""Process groups."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import ROOT

CODE = """
from engine.groups import free_address, process_group
import torch.distributed
for _ in range(2):
    with process_group(0, 1, free_address()):
        assert torch.distributed.get_world_size() == 1
    assert not torch.distributed.is_initialized()
"""


def test_a_group_waits_for_no_lock_that_a_killed_process_left(tmp_path) -> None:
    """DeepSpeed compiles an operator for its groups unless told not to, and who compiles holds a lock file."""
    place = tmp_path / "deepspeed_shm_comm"
    place.mkdir()
    (place / "lock").touch()
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", CODE], env=environment, check=True, timeout=60, capture_output=True)
    assert [file.name for file in place.iterdir()] == ["lock"]  # and nothing was compiled
