"""What a stream remembers of the chunks it has made (METHOD §7).

Keys are stored *before* RoPE and turned when they are read, because a chunk that was written at
frames 18-20 is read as *previous* at 15-17.  One KVCache belongs to one denoising step: a chunk at
step s reads what earlier chunks wrote at step s.  Memory is constant: two chunks, however long the
stream.
"""

from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Int

from tm_jax.nn.masks import positions, valid_roles


@flax.struct.dataclass
class ChunkKV:
    """What one chunk wrote.  (Fields are not type-checked: transforms put shardings and cotangents there.)"""

    keys: Any
    """[layers b m n k], before RoPE, m = g·h·w tokens; without the first axis inside a layer."""
    values: Any
    """The same for values."""


@flax.struct.dataclass
class KVCache:
    """Keys and values of the first and the previous chunk, and how the next chunk reads them."""

    keys: Any
    """[layers b 2m n k], before RoPE: the tokens of the first chunk, then those of the previous one."""
    values: Any
    """The same for values."""
    positions: Any
    """Int [2 g]: RoPE frames at which the next chunk reads the first and the previous chunk."""
    valid: Any
    """Bool [2]: whether the next chunk may read them: neither at chunk 0, only the first at chunk 1."""

    def previous(self) -> ChunkKV:
        """The previous chunk's part."""
        half = self.keys.shape[2] // 2
        return ChunkKV(self.keys[:, :, half:], self.values[:, :, half:])


def empty_cache(
    *, layers: int, batch: int, chunk: int, tokens_per_frame: int, heads: int, head_dim: int, dtype: str
) -> KVCache:
    """The context of chunk 0: zeros, of which nothing may be read."""
    shape = (layers, batch, 2 * chunk * tokens_per_frame, heads, head_dim)
    return KVCache(
        keys=jnp.zeros(shape, dtype),
        values=jnp.zeros(shape, dtype),
        positions=jnp.tile(jnp.arange(chunk), (2, 1)),
        valid=jnp.zeros((2,), bool),
    )


def roll(
    cache: KVCache, written: ChunkKV, chunk_index: Int[Array, ""] | int, *, trained_frames: int
) -> KVCache:
    """The context of chunk ``chunk_index + 1``, given what chunk ``chunk_index`` wrote.

    The written chunk becomes *previous*; chunk 0 also becomes *first*, and stays it.  ``chunk_index``
    may be traced.
    """
    half, chunk = cache.keys.shape[2] // 2, cache.positions.shape[1]
    starts = jnp.asarray(chunk_index) == 0

    def merge(old, new):
        first = jnp.where(starts, new, old[:, :, :half])
        return jnp.concatenate([first, new.astype(old.dtype)], axis=2)

    following = jnp.asarray(chunk_index) + 1
    where = lambda role: positions(following, role, chunk=chunk, trained_frames=trained_frames)
    return KVCache(
        keys=merge(cache.keys, written.keys),
        values=merge(cache.values, written.values),
        positions=jnp.stack([where("first"), where("previous")]),
        valid=valid_roles(following)[:2],
    )
