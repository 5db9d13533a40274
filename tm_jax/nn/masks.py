"""Which chunk may attend to which, and at what RoPE frames it reads it (METHOD §6, §7).

Sparse causal attention: chunk i attends to chunks {0, i-1, i}, every token of a chunk to every other::

    key chunk    0 1 2 3 4 5 6
    query  0     ■ · · · · · ·
           1     ■ ■ · · · · ·
           2     ■ ■ ■ · · · ·
           3     ■ · ■ ■ · · ·
           4     ■ · · ■ ■ · ·
           5     ■ · · · ■ ■ ·
           6     ■ · · · · ■ ■

A query chunk therefore reads three key chunks, in the roles *first*, *previous* and *current*.  For
chunk 0 only *current* is real, and for chunk 1 *previous* would repeat *first*, so both are masked.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

Role = Literal["first", "previous", "current"]
ChunkIndex = int | Int[Array, "..."] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Bidirectional:
    """Every token attends to every token: the teacher and the critic."""


@dataclasses.dataclass(frozen=True)
class SparseCausal:
    """Chunk i attends to chunks {0, i-1, i}: the student."""

    chunk: int = 3
    """Latent frames in a chunk."""


AttentionPattern = Bidirectional | SparseCausal


def chunk_of(frame: ChunkIndex, chunk: int) -> ChunkIndex:
    """The chunk that holds a latent frame."""
    return frame // chunk


def allowed(query_chunk: ChunkIndex, key_chunk: ChunkIndex) -> Bool[Array, "..."] | np.ndarray | bool:
    """Whether a query chunk attends to a key chunk: key ∈ {0, query-1, query} and key ≤ query."""
    near = (key_chunk == query_chunk) | (key_chunk == query_chunk - 1)
    return near | ((key_chunk == 0) & (query_chunk >= 0))


def dense_mask(pattern: AttentionPattern, frames: int, tokens_per_frame: int) -> np.ndarray:
    """The whole mask ``[l, l]`` (query, key): the definition that the gathered form is tested against."""
    frame = np.arange(frames * tokens_per_frame) // tokens_per_frame
    if isinstance(pattern, Bidirectional):
        return np.ones((frame.size, frame.size), bool)
    index = chunk_of(frame, pattern.chunk)
    return allowed(index[:, None], index[None, :])


def valid_roles(query_chunk: ChunkIndex) -> Bool[Array, "... 3"]:
    """Whether *first*, *previous*, *current* hold something that the chunk has not read already."""
    query_chunk = jnp.asarray(query_chunk)
    return jnp.stack([query_chunk >= 1, query_chunk >= 2, query_chunk >= 0], axis=-1)


def positions(
    query_chunk: ChunkIndex, key_role: Role, *, chunk: int, trained_frames: int
) -> Int[Array, "... g"]:
    """RoPE frames at which a query chunk reads one of its three key chunks (its own are *current*).

    Chunk n stands at frames ``chunk·n …`` until the trained range ends, and from there on at the last
    frames of that range for ever; *previous* is read just before it and *first* at 0.  For 21 trained
    frames: chunks of 3 are pinned at 0-2 / 15-17 / 18-20, chunks of 7 at 0-6 / 7-13 / 14-20.
    ``query_chunk`` may be traced, so that one compiled step serves every chunk.

    Raises ValueError if the trained range does not hold three chunks.
    """
    if trained_frames < 3 * chunk:
        raise ValueError(f"{trained_frames} trained frames do not hold three chunks of {chunk}")
    start = jnp.minimum(jnp.asarray(query_chunk) * chunk, trained_frames - chunk)
    if key_role == "previous":
        start = jnp.maximum(start - chunk, 0)
    elif key_role == "first":
        start = jnp.zeros_like(start)
    frame = jnp.arange(chunk).reshape((1,) * start.ndim + (chunk,))
    return start[..., None] + frame
