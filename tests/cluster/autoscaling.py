"""A studio on a Ray cluster with an autoscaler, in a process of its own: prints as JSON what it saw.

`python -m tests.cluster.autoscaling FOLDER`. Ray's own `AutoscalingCluster` ends every Ray of the machine before it
starts and after; here only the processes that work in FOLDER are ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import psutil
import ray
from ray.cluster_utils import AutoscalingCluster

from benchmarks.scaling import WORKER, film
from cluster.client import close_studio, make_films, open_studio
from cluster.local import NAMESPACE, RAY_SETTINGS, SLOT
from cluster.store import Store

ROOT = Path(__file__).parent.parent.parent
NODE = {"CPU": 1, SLOT: 1, "object_store_memory": 80_000_000}


class OwnConfig(AutoscalingCluster):
    """Ray's wheel lacks the file that the configuration is made from."""

    def _generate_config(self, head_resources, worker_node_types, autoscaler_v2=False, **more):
        lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
        head = {"resources": head_resources, "node_config": {}, "max_workers": 0}
        provider = {  # nodes of one machine share its address, and nobody logs in to start them
            "type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True,
            "disable_launch_config_check": True,
        }  # fmt: skip
        return {
            "cluster_name": "films", "max_workers": 2, "provider": provider, "auth": {},
            "available_node_types": {**worker_node_types, "ray.head.default": head},
            "head_node_type": "ray.head.default", "upscaling_speed": 1.0, "file_mounts": {},
            "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
            **{f"{name}_commands": [] for name in lists}, **more,
        }  # fmt: skip


def _start(cluster: AutoscalingCluster) -> None:
    really = subprocess.check_call

    def without_stop(command, *arguments, **options):
        return 0 if command[:2] == ["ray", "stop"] else really(command, *arguments, **options)

    with patch("ray.cluster_utils.subprocess.check_call", without_stop):
        cluster.start()


def _end(folder: str) -> None:
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter(["cmdline"]):
        if process.pid not in ours and any(folder in word for word in process.info["cmdline"] or ()):
            process.kill()


def main(folder: str) -> None:
    os.environ.update({**RAY_SETTINGS, "RAY_TMPDIR": folder, "DREAMRUNNER_IDLE_S": "5"})
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    seen: list[int] = []
    try:
        cluster = OwnConfig(
            {"CPU": 1, "object_store_memory": 80_000_000},
            {"workers": {"resources": NODE, "node_config": {}, "min_workers": 0, "max_workers": 2}},
            idle_timeout_minutes=0.1,
        )
        _start(cluster)
        environment = {"PYTHONPATH": str(ROOT), "DREAMRUNNER_IDLE_S": "5"}
        ray.init("auto", namespace=NAMESPACE, log_to_driver=False, runtime_env={"env_vars": environment})

        def look(states=()) -> None:
            seen.append(int(ray.cluster_resources().get(SLOT, 0)))

        look()
        store = Store(f"{folder}/store")
        studio = open_studio(store, "cpu", WORKER)
        make_films(studio, [film("one", 0, 8, 0.5)], 2, look)
        deadline = time.monotonic() + 90
        while seen[-1] > 1 and time.monotonic() < deadline:
            time.sleep(1)
            look()
        close_studio(studio)
        ray.shutdown()
    finally:
        _end(folder)
    print(json.dumps({"slots": seen}))


if __name__ == "__main__":
    main(sys.argv[1])
