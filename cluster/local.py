"""Ray with the settings this engine needs: started on this machine, or joined by address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from cluster.head import HeadLost, host_and_port, reach
from engine.errors import InputError

NAMESPACE = "dreamrunner"
SLOT = "slot"  # a worker asks one; a node offers one for each worker that it can hold

# Read by Ray's own processes when they start. A Ray worker is at nice 15 otherwise, and Serve's proxy is ended after
# three late answers, which a busy CPU machine gives; process groups make sure that a dead actor's children die too.
RAY_SETTINGS = {
    "RAY_worker_niceness": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "30",
    "RAY_process_group_cleanup_enabled": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "180",  # a busy machine is slow, not dead
    "RAY_DEDUP_LOGS": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "120",  # a head that starts again is waited for; see cluster/head.py
}


@contextmanager
def ray_cluster(address: str | None, workers: int) -> Iterator[None]:
    """A connection to the cluster at `address`, or a Ray of our own with `workers` slots, which ends with the block.

    Raises HeadLost when no cluster answers at the address, InputError when it is none.
    """
    if address is None and ray.is_initialized():  # a program that has its own connection keeps it
        yield
        return
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    here = str(Path(__file__).parent.parent)
    try:
        if address:
            host, port = host_and_port(address)
            if host:
                reach(host, port)  # Ray itself would try for minutes
            ray.init(
                address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="error",
                runtime_env={"working_dir": here, "excludes": [".venv", "films", ".dreamrunner", ".git", ".training"]},
            )  # fmt: skip
        else:
            ray.init(
                namespace=NAMESPACE, resources={SLOT: workers}, include_dashboard=True, dashboard_host="127.0.0.1",
                log_to_driver=False, logging_level="error", runtime_env={"env_vars": {"PYTHONPATH": here}},
            )  # fmt: skip
    except OSError as error:
        why = str(error).splitlines()[0]
        raise HeadLost(f"--address {address}: no Ray cluster answers there ({why}); what is finished is kept") from None
    except ValueError as error:
        raise InputError(f"--address {address}: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def gpus() -> int:
    """GPUs of the cluster that we are connected to."""
    return int(ray.cluster_resources().get("GPU", 0))
