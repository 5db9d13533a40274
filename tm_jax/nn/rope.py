"""Rotary positions over frame, row and column, as Wan2.1 splits them (METHOD §2).

A head of k channels has k/2 pairs; rows and columns take ``k // 6`` pairs each and frames the rest
(128 channels: 22 / 21 / 21).  Channels 2i and 2i+1 form pair i.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def pair_counts(head_dim: int) -> tuple[int, int, int]:
    """How many pairs of a head turn with frame, row and column."""
    space = head_dim // 6
    return head_dim // 2 - 2 * space, space, space


def _angles(length: int, pairs: int, theta: float) -> np.ndarray:
    """Angles [length, pairs] in float64."""
    return np.arange(length)[:, None] * theta ** (-np.arange(pairs) / max(pairs, 1))[None]


def rope_tables(
    frames: Int[Array, " f"] | np.ndarray,
    height: int,
    width: int,
    *,
    head_dim: int,
    theta: float,
    max_frames: int,
) -> Float[Array, "l k"]:
    """Cosines and sines of every token of the given frames, ``[f·height·width, head_dim]``.

    The first half of the last axis holds the cosines of the k/2 pairs, the second half the sines.
    ``frames`` are RoPE positions below ``max_frames`` and may be traced.  The angles are taken in
    float64 on the host, because float32 products lose what parity needs.
    """
    frame_pairs, row_pairs, column_pairs = pair_counts(head_dim)
    count = frames.shape[0]
    by_frame = _angles(max_frames, frame_pairs, theta)
    by_row, by_column = _angles(height, row_pairs, theta), _angles(width, column_pairs, theta)
    halves = []
    for function in (np.cos, np.sin):
        frame_part = jnp.asarray(function(by_frame), jnp.float32)[frames][:, None, None]
        row_part = jnp.asarray(function(by_row), jnp.float32)[None, :, None]
        column_part = jnp.asarray(function(by_column), jnp.float32)[None, None]
        parts = [
            jnp.broadcast_to(part, (count, height, width, part.shape[-1]))
            for part in (frame_part, row_part, column_part)
        ]
        halves.append(jnp.concatenate(parts, axis=-1))
    return jnp.concatenate(halves, axis=-1).reshape(count * height * width, head_dim)


def rotate(x: Float[Array, "... l n k"], tables: Float[Array, "... l k"]) -> Float[Array, "... l n k"]:
    """x with each pair of channels turned by its angle; computed in float32, returned in x's dtype.

    ``tables`` may lack leading axes of x (a batch, say): they are broadcast.
    """
    half = x.shape[-1] // 2
    tables = tables.reshape((1,) * (x.ndim - 1 - tables.ndim) + tables.shape)[..., None, :]
    cos, sin = tables[..., :half], tables[..., half:]
    even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
