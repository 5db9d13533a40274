"""Several GPUs share one chunk: Ulysses, every rank a part of the tokens, in attention a part of the heads.

    matrices, norms, cross-attention    [l/R  n  k]     each rank its part of every latent frame's tokens
    self-attention and its cache        [l  n/R  k]     each rank its heads of all tokens

Two exchanges of all with all a layer turn one into the other, so that every rank holds 1/R of the cache.  A
rank's tokens are the r-th part of *each* latent frame, because a frame's tokens hear that frame's sound.
"""

from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor


@runtime_checkable
class Exchange(Protocol):
    """What the rollout asks of the ranks that share its tokens."""

    ranks: int

    def mine(self, x: Tensor, axis: int = 0) -> Tensor:
        """This rank's part along an axis."""
        ...

    def everyone(self, x: Tensor, axis: int = 0) -> Tensor:
        """All ranks' parts put together along an axis: the inverse of ``mine``."""
        ...

    def gathered_order(self, x: Tensor, axis: int) -> Tensor:
        """Something of all tokens, frames and tokens of a frame along ``axis`` - 1 and ``axis``, reordered to
        what ``to_heads`` gives."""
        ...

    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[l/R n k] → [l n/R k] of each."""
        ...

    def to_tokens(self, read: Tensor) -> Tensor:
        """[l n/R k] → [l/R n k]."""
        ...


class Alone:
    """One rank has all tokens and all heads."""

    ranks = 1

    def mine(self, x: Tensor, axis: int = 0) -> Tensor:
        return x

    def everyone(self, x: Tensor, axis: int = 0) -> Tensor:
        return x

    def gathered_order(self, x: Tensor, axis: int) -> Tensor:
        return x

    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return query, key, value

    def to_tokens(self, read: Tensor) -> Tensor:
        return read


class Ulysses:
    """The ranks of a process group."""

    def __init__(self, group: dist.ProcessGroup):
        self.group, self.rank, self.ranks = group, dist.get_rank(group), dist.get_world_size(group)

    def mine(self, x: Tensor, axis: int = 0) -> Tensor:
        return x.chunk(self.ranks, axis)[self.rank]

    def everyone(self, x: Tensor, axis: int = 0) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.ranks)]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return torch.cat(parts, axis)

    def gathered_order(self, x: Tensor, axis: int) -> Tensor:
        """Ranks in front: first every frame's first part, then every frame's second …"""
        parts = x.unflatten(axis, (self.ranks, -1))
        frames = parts.movedim(axis, axis - 1)
        return frames.flatten(axis - 1, axis).contiguous()

    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        given = torch.stack([query, key, value]).unflatten(2, (self.ranks, -1)).movedim(2, 0).contiguous()
        taken = torch.empty_like(given)
        dist.all_to_all_single(taken, given, group=self.group)
        return taken.transpose(0, 1).flatten(1, 2).unbind(0)

    def to_tokens(self, read: Tensor) -> Tensor:
        given = read.unflatten(0, (self.ranks, -1)).contiguous()
        taken = torch.empty_like(given)
        dist.all_to_all_single(taken, given, group=self.group)
        return taken.transpose(0, 1).flatten(1, 2)
