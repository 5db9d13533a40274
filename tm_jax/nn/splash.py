"""Attention by the splash kernel, JAX's fused one for TPUs; elsewhere the kernel is interpreted, for tests.

Queries and keys are padded to whole blocks.  What hides the padding is computed inside the kernel: a mask as
an array of 21,504 tokens would take minutes to take apart.  Lengths become segments: keys of another segment
than the queries' are not read.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Float, Int

from tm_jax.sharding import platform

LANES = 128
BLOCK = 512


class FirstKeys(masks._ComputableMask):
    """Every query reads the first ``count`` keys."""

    def __init__(self, shape: tuple[int, int], count: int):
        super().__init__(shape=shape, mask_function=lambda _, keys: keys < count)
        self.count = count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FirstKeys) and (self.shape, self.count) == (other.shape, other.count)

    def __hash__(self) -> int:
        return hash((FirstKeys, self.shape, self.count))


def attention(
    query: Float[Array, "b l n k"],
    key: Float[Array, "b m n k"],
    value: Float[Array, "b m n k"],
    lengths: Int[Array, " b"] | None,
) -> Float[Array, "b l n k"]:
    """The same as ``nn.attention.attention``."""
    rows, count = query.shape[1], key.shape[1]
    query = query * query.shape[-1] ** -0.5
    query, key, value = (jnp.moveaxis(_padded(x), 2, 1) for x in (query, key, value))
    shape = query.shape[2], key.shape[2]
    kernel = _kernel(shape, query.shape[1], count if lengths is None else shape[1])
    if lengths is None:
        out = jax.vmap(kernel)(query, key, value)
    else:
        beyond = jnp.arange(shape[1])[None] >= lengths[:, None]
        segments = kernels.SegmentIds(
            q=jnp.zeros((len(lengths), shape[0]), jnp.int32), kv=beyond.astype(jnp.int32)
        )
        out = jax.vmap(kernel)(query, key, value, segments)
    return jnp.moveaxis(out, 1, 2)[:, :rows].astype(value.dtype)


def _block(length: int) -> int:
    """Rows of a block: BLOCK, or all of a shorter sequence."""
    return min(BLOCK, -(-length // LANES) * LANES)


def _padded(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % _block(x.shape[1])), (0, 0), (0, 0)))


def _kernel(shape: tuple[int, int], heads: int, count: int):
    """The kernel of so many queries × keys, of which the first ``count`` are read."""
    rows, keys = map(_block, shape)
    mask = masks.FullMask(shape) if count == shape[1] else FirstKeys(shape, count)
    return kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=kernels.BlockSizes(
            block_q=rows,
            block_kv=keys,
            block_q_dkv=rows,
            block_kv_dkv=keys,
            block_q_dq=rows,
            block_kv_dq=keys,
        ),
        interpret=platform() != "tpu",
    )
