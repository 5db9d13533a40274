"""Attention by cuDNN's fused kernel, for GPUs.

It takes no mask whose query axis is 1 and trains on no odd number of keys, so keys are padded to a multiple
of 64 and their number is given as a length.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MULTIPLE = 64


def attention(
    query: Float[Array, "b l n k"],
    key: Float[Array, "b m n k"],
    value: Float[Array, "b m n k"],
    lengths: Int[Array, " b"] | None,
) -> Float[Array, "b l n k"]:
    """The same as ``nn.attention.attention``; in bfloat16 or float16 alone."""
    count = key.shape[1]
    rows = query.shape[1]
    if count % MULTIPLE:
        key, value = _padded(key), _padded(value)
        if lengths is None:
            lengths = jnp.full(key.shape[:1], count, jnp.int32)
    # The queries' length follows the same rule, for small pictures whose tokens are odd in number.
    out = jax.nn.dot_product_attention(
        _padded(query) if rows % 2 else query,
        key,
        value,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return out[:, :rows]


def _padded(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % MULTIPLE), (0, 0), (0, 0)))
