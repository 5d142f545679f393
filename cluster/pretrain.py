"""The miniature's video training on a cluster: `python -m cluster.pretrain plain|default [--workers N] [--address A]`.

Ray Train starts the workers and starts them again when one dies; each calls the same training function as a single
process does (engine/miniature/train_video.py), and DeepSpeed averages their gradients. The state is rank 0's, so an
interrupted training goes on, with more or fewer workers. On several machines DREAMRUNNER_MINIATURE names a folder that
all of them see; it begins as a copy of engine/miniature.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from cluster.local import SLOT, gpus, ray_cluster
from engine.miniature.settings import CACHED_CLIPS, TRAINING, Checkpoint


def train_worker(config: dict[str, Any]) -> None:
    """What each of Ray Train's workers runs."""
    import os

    import torch

    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    import deepspeed.comm
    import ray.train

    from engine.groups import Ranks
    from engine.miniature.train_video import train

    context = ray.train.get_context()
    torch.set_num_threads(config["threads"])
    deepspeed.comm.init_distributed(auto_mpi_discovery=False, verbose=False)  # takes the group that Ray Train made
    ranks = Ranks(context.get_world_rank(), context.get_world_size())
    train(Checkpoint(config["checkpoint"]), ranks, config["minutes"], config["clips"], ray.train.report)


def pretrain(
    checkpoint: Checkpoint, workers: int, minutes: float | None = None, clips: int = CACHED_CLIPS, threads: int = 1
) -> dict[str, Any]:
    """Trains on the cluster that we are connected to; the last line of the log."""
    cuda = gpus() > 0
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"checkpoint": checkpoint.value, "minutes": minutes, "clips": clips, "threads": threads},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=cuda, resources_per_worker={SLOT: 1, "CPU": 0, **({"GPU": 1} if cuda else {})}
        ),
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
        run_config=RunConfig(
            name=f"pretrain-{checkpoint}",
            storage_path=str(TRAINING / "ray"),
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    return trainer.fit().metrics or {}


def main(
    checkpoint: Annotated[Checkpoint, typer.Argument(help="plain first; default goes on from it")],
    workers: Annotated[int, typer.Option(min=1, help="one to a GPU, or to a slot of a CPU machine")] = 2,
    minutes: Annotated[float | None, typer.Option(help="of training in all (default: the settings')")] = None,
    address: Annotated[str | None, typer.Option(help="of a running Ray cluster")] = None,
) -> None:
    """Trains, or goes on training, one of the miniature's video checkpoints."""
    with ray_cluster(address, workers):
        print(json.dumps(pretrain(checkpoint, workers, minutes)))


if __name__ == "__main__":
    typer.run(main)
