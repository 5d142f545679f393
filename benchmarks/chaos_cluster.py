"""Three Ray nodes on this machine under a durable GCS, in a process that benchmarks.chaos speaks to in lines.

    python -m benchmarks.chaos_cluster FOLDER

`pids` answers {"gcs": pid, "raylets": [pids of the two nodes that are not the head]}; `gcs` starts a GCS that was
killed again; `node` puts a new node in the place of one whose raylet was killed; `end` ends all.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

from cluster.local import RAY_SETTINGS, SLOT

PLACE: dict[str, Any] = {"resources": {SLOT: 1}, "num_cpus": 1, "include_dashboard": False}
NUMBERS = itertools.count(1)


def place() -> dict[str, Any]:
    """A further node's options. It unpacks the program in a folder of its own, as nodes on machines of their own do: a
    new one clears that folder first, and would take the program from under the others."""
    return {**PLACE, "runtime_env_dir_name": f"runtime_resources_{next(NUMBERS)}"}


def main(folder: Path) -> None:
    os.environ |= {**RAY_SETTINGS, "RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder / "gcs")}
    (folder / "gcs").mkdir(parents=True)
    from ray._private.ray_constants import PROCESS_TYPE_GCS_SERVER, PROCESS_TYPE_RAYLET
    from ray.cluster_utils import Cluster

    with contextlib.redirect_stdout(sys.stderr):
        cluster = Cluster(initialize_head=True, shutdown_at_exit=True, head_node_args=PLACE)
        for _ in range(2):
            cluster.add_node(**place())
    print(json.dumps({"address": cluster.address}), flush=True)

    def pid(node, kind: str) -> int:
        return node.all_processes[kind][0].process.pid

    for line in sys.stdin:
        answer: dict = {}
        with contextlib.redirect_stdout(sys.stderr):
            if line.strip() == "pids":
                raylets = [pid(node, PROCESS_TYPE_RAYLET) for node in cluster.worker_nodes]
                answer = {"gcs": pid(cluster.head_node, PROCESS_TYPE_GCS_SERVER), "raylets": raylets}
            elif line.strip() == "gcs":
                cluster.head_node.kill_gcs_server(check_alive=False)  # takes note that it is dead
                cluster.head_node.start_gcs_server()
            elif line.strip() == "node":
                for node in list(cluster.worker_nodes):
                    if node.all_processes[PROCESS_TYPE_RAYLET][0].process.poll() is not None:
                        cluster.worker_nodes.discard(node)
                        node.kill_all_processes(check_alive=False, allow_graceful=False)
                cluster.add_node(**place())
            elif line.strip() == "end":
                break
        print(json.dumps(answer), flush=True)
    with contextlib.redirect_stdout(sys.stderr):
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
