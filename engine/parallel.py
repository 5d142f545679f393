"""One scene over several workers, exactly: a branch of guidance each, and Ulysses within a branch.

Ulysses (Jacobs et al., 2023, "DeepSpeed Ulysses"): outside attention a worker holds some of the visual tokens; for
attention an all-to-all exchange gives it all tokens of some of the heads, and another one turns that back. Text is on
every worker. Invariants:
- member `rank` works on branch `rank // ulysses_degree` (0 negative, 1 positive), on slice `rank % ulysses_degree`;
- slices are equally long: where tokens do not divide, zeros follow the last one and are cut off before attention;
- what members exchange is the same bits on each, and so are their latents after every step;
- nothing here has gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from engine.groups import TIMEOUT, process_group
from engine.settings import ExecutionPlan, check_degrees

if TYPE_CHECKING:
    from engine.video_model import VideoModel


@dataclass(frozen=True)
class SequenceParallel:
    """This worker's share of a branch: slice `rank` of `degree` of its `tokens` visual tokens."""

    tokens: int
    degree: int
    rank: int
    group: dist.ProcessGroup

    @property
    def share(self) -> int:
        """Visual tokens of each worker, padding included."""
        return -(-self.tokens // self.degree)

    def my_tokens(self, x_BNC: torch.Tensor) -> torch.Tensor:
        """All visual tokens (batch, tokens, C) -> mine (batch, share, C)."""
        padded = F.pad(x_BNC, (0, 0, 0, self.share * self.degree - self.tokens))
        return padded.narrow(-2, self.rank * self.share, self.share)

    def my_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """A mask over [text | all visual tokens], (..., L, 1) -> over [text | mine], 0 on padding."""
        text = mask.shape[-2] - self.tokens
        return torch.cat([mask[..., :text, :], self.my_tokens(mask[..., text:, :])], -2)

    def all_tokens(self, x_BSC: torch.Tensor) -> torch.Tensor:
        """My visual tokens (batch, share, C) -> all of them (batch, tokens, C), on every worker."""
        return torch.cat(_gather(x_BSC, self.degree, self.group), 1)[:, : self.tokens]

    def heads_of_all_tokens(self, x_BHLD: torch.Tensor, text: int) -> torch.Tensor:
        """All heads of [text | my tokens] -> my heads of [text | all tokens], (batch, heads / degree, L, D)."""
        mine = x_BHLD.shape[1] // self.degree
        to_each_PBHLD = x_BHLD[:, :, text:].unflatten(1, (self.degree, mine)).movedim(1, 0)
        visual = self._exchange(to_each_PBHLD).permute(1, 2, 0, 3, 4).flatten(2, 3)
        my_text = x_BHLD[:, self.rank * mine : (self.rank + 1) * mine, :text]
        return torch.cat([my_text, visual[:, :, : self.tokens]], 2)

    def tokens_of_all_heads(self, x_BHLD: torch.Tensor, text: int) -> torch.Tensor:
        """My heads of [text | all tokens] -> all heads of [text | my tokens]. Text goes to every worker."""
        visual = F.pad(x_BHLD[:, :, text:], (0, 0, 0, self.share * self.degree - self.tokens))
        texts = x_BHLD[:, :, None, :text].expand(-1, -1, self.degree, -1, -1)
        to_each_PBHLD = torch.cat([texts, visual.unflatten(2, (self.degree, self.share))], 3).movedim(2, 0)
        return self._exchange(to_each_PBHLD).movedim(0, 1).flatten(1, 2)

    def _exchange(self, to_each: torch.Tensor) -> torch.Tensor:
        """to_each[p] goes to worker p; what worker p sent to this one comes back at [p]."""
        sent = to_each.contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.group)
        return received


@dataclass(frozen=True)
class GuidanceParallel:
    """One of the two branches of classifier-free guidance is this worker's: 0 the negative, 1 the positive."""

    branch: int
    group: dist.ProcessGroup


@dataclass(frozen=True)
class Parallel:
    """What a member knows of the others. With neither part it works alone."""

    rank: int = 0
    guidance: GuidanceParallel | None = None
    sequence: SequenceParallel | None = None

    def my_branches(self, x: torch.Tensor) -> torch.Tensor:
        """(2, ...), negative and positive -> the rows that are this worker's."""
        return x if self.guidance is None else x[self.guidance.branch, None]

    def all_branches(self, x: torch.Tensor) -> torch.Tensor:
        """The rows that are this worker's -> (2, ...), the same bits on every member."""
        return x if self.guidance is None else torch.cat(_gather(x, 2, self.guidance.group))

    def check_start(self, step: torch.Tensor) -> None:
        """Raises ValueError unless all members begin at the same step: else their predictions would be mixed."""
        if self.guidance is None and self.sequence is None:
            return
        steps = [int(s) for s in _gather(step, dist.get_world_size(), dist.group.WORLD)]
        if len(set(steps)) > 1:
            raise ValueError(f"the members of one scene begin at steps {steps}; give all of them the same state")


ALONE = Parallel()


@contextmanager
def parallel_scene(
    model: VideoModel, execution: ExecutionPlan, rank: int = 0, address: str = "", timeout: timedelta = TIMEOUT
) -> Iterator[Parallel]:
    """Within the block this process is member `rank` of the scene's workers; rank 0 listens at `address`.

    Yields what `denoise` (and `region_loras`, of its `sequence`) take. All members give the same model and plan. A plan
    for one worker makes no group. InputError for degrees that the model cannot have; RuntimeError in every member once
    another one is gone or silent for `timeout`.
    """
    check_degrees(execution, model.transformer.config.num_attention_heads, model.grid.size)
    if execution.world_size == 1:
        yield ALONE
        return
    with process_group(rank, execution.world_size, address, model.device.type, timeout):
        parallel = _member(execution, rank, model.grid.size, timeout)
        with _split_tokens(model.transformer, parallel.sequence):
            yield parallel


def _member(execution: ExecutionPlan, rank: int, tokens: int, timeout: timedelta) -> Parallel:
    """The groups of a job, made in the same order by all members; they end with the process group."""
    ranks = torch.arange(execution.world_size).view(execution.guidance_degree, execution.ulysses_degree)
    branch, part = divmod(rank, execution.ulysses_degree)
    pairs, sequences = _groups(ranks.T.tolist(), timeout), _groups(ranks.tolist(), timeout)
    return Parallel(
        rank,
        GuidanceParallel(branch, pairs[part]) if len(ranks) > 1 else None,
        SequenceParallel(tokens, execution.ulysses_degree, part, sequences[branch]) if ranks.shape[1] > 1 else None,
    )


def _groups(members: list[list[int]], timeout: timedelta) -> list[Any]:
    """A group for each list of ranks. torch makes them, since deepspeed.comm's passes no timeout on: a part of the
    group would then wait 30 minutes for a member that hangs."""
    if len(members) == 1:
        return [dist.group.WORLD]
    return [dist.new_group(ranks, timeout=timeout) if len(ranks) > 1 else None for ranks in members]


def _gather(x: torch.Tensor, degree: int, group: dist.ProcessGroup) -> list[torch.Tensor]:
    """x of every member of the group, in order."""
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(degree)]
    dist.all_gather(parts, x.contiguous(), group=group)
    return parts


@contextmanager
def _split_tokens(transformer: nn.Module, sequence: SequenceParallel | None) -> Iterator[None]:
    """Within the block the blocks and the output head work on this worker's visual tokens.

    The forward stays diffusers': a hook cuts the first block's tokens, another puts the head's together. Between them
    all but attention works token by token; after the head a token is at its smallest.
    """
    if sequence is None:
        yield
        return

    def cut(module: nn.Module, args: tuple[()], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        return args, {**kwargs, "hidden_states": sequence.my_tokens(kwargs["hidden_states"])}

    def join(module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return sequence.all_tokens(output)

    hooks = [
        transformer.transformer_blocks[0].register_forward_pre_hook(cut, with_kwargs=True),
        transformer.proj_out.register_forward_hook(join),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
