"""What a stream remembers of its chunks: keys and values in three slots, a set for every denoising step.

A chunk attends to itself, to the first chunk and to the previous one.  The first owns slot 0; every later
chunk n owns slot 2 - n % 2, so that its predecessor is in the other one and nothing is ever moved:

    chunk   0   1   2   3   4   …
    slot    0   1   2   1   2   …        chunk 0 reads slot 0, chunk 1 slots 0 and 1, every later one all

Keys are kept rotated, at the position where they are read: the chunk writes them at its own, and once it has
attended writes them again at the one where the next chunk reads them as *previous*.  Until positions are
pinned at the end of the trained range the two are the same.  The order of keys does not matter to attention.
"""

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a chunk stands: plain numbers, from its index alone."""

    slot: int
    """The slot that it writes."""
    slots: int
    """How many slots it reads, from the first on."""
    start: int
    """Its own first RoPE frame."""
    later: int
    """The RoPE frame at which the next chunk reads it."""


def place(chunk: int, frames: int, trained_frames: int) -> Place:
    """The place of a chunk of ``frames`` latent frames; ``tm_jax.nn.masks.positions`` says the same."""
    if trained_frames < 3 * frames:
        raise ValueError(f"{trained_frames} trained frames do not hold three chunks of {frames}")
    start = min(chunk * frames, trained_frames - frames)
    following = min((chunk + 1) * frames, trained_frames - frames)
    return Place(
        slot=0 if chunk == 0 else 2 - chunk % 2,
        slots=min(chunk + 1, 3),
        start=start,
        later=0 if chunk == 0 else following - frames,
    )


class StepCache:
    """Keys and values of one denoising step in all layers; allocated once, written in place."""

    def __init__(
        self, layers: int, tokens: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ):
        shape = (layers, 3, tokens, heads, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def written(self, layer: int, slot: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one slot, [l n k] each, to be written."""
        return self.keys[layer, slot], self.values[layer, slot]

    def read(self, layer: int, slots: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first slots, [slots·l n k] each."""
        return self.keys[layer, :slots].flatten(0, 1), self.values[layer, :slots].flatten(0, 1)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.keys.nbytes + self.values.nbytes
