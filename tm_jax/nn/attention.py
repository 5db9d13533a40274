"""One attention function and the switch between its implementations, which are equal in value.

    xla       everywhere; holds the logits
    cudnn     the fused kernel of GPUs, in bfloat16 (`nn.cudnn`)
    splash    the fused kernel of TPUs (`nn.splash`)
    blocked   for CPUs, where what attention costs is the traffic of its logits: a few rows of the batch at a
              time stay in the cache, and the backward pass makes them again; half the time at 336 tokens
    auto      the fused one where the program will run, blocked on a CPU

Softmax is float32 in all.  Keys that may not be read are always the last ones, so that a length says it and
no mask is held.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tm_jax.nn import cudnn
from tm_jax.nn.backends import BACKENDS
from tm_jax.sharding import platform

BLOCK_BYTES = 2**21
SHORTEST = 64
"""Keys below which a fused kernel has no work worth its start, and cuDNN's does not train: audio's 16."""


def attention(
    query: Float[Array, "b l n k"],
    key: Float[Array, "b m n k"],
    value: Float[Array, "b m n k"],
    *,
    lengths: Int[Array, " b"] | None = None,
    backend: str = "xla",
) -> Float[Array, "b l n k"]:
    """Softmax attention with scale 1/√k; of each clip only the first ``lengths`` keys are read.

    On several devices it is to be called on each one's own part (`sharding.per_shard`): the kernels know
    nothing of a mesh.

    Raises ValueError for an unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"attention backend {backend!r}: known are {', '.join(BACKENDS)}")
    if backend == "auto":
        backend = {"gpu": "cudnn", "tpu": "splash"}.get(platform(), "blocked")
        if backend == "cudnn" and query.dtype == jnp.float32:
            backend = "xla"
    if backend == "cudnn" and key.shape[1] >= SHORTEST:
        return cudnn.attention(query, key, value, lengths)
    if backend == "splash" and key.shape[1] >= SHORTEST:
        from tm_jax.nn import splash  # Importing its kernels takes a second, which others need not wait for.

        return splash.attention(query, key, value, lengths)
    if backend == "blocked":
        return _head_by_head(query, key, value, lengths)
    return _attention(query, key, value, lengths)


def _head_by_head(query, key, value, lengths):
    """A few heads of the batch after another, their logits made again in the backward pass."""
    batch, length, heads, _ = query.shape
    count = batch * heads
    block = max(1, BLOCK_BYTES // (4 * length * key.shape[1]))
    if block >= count:
        return _attention(query, key, value, lengths)
    flat = lambda x: jnp.moveaxis(x, 2, 1).reshape(count, x.shape[1], x.shape[3])
    inputs = flat(query), flat(key), flat(value)
    if lengths is not None:
        inputs = (*inputs, jnp.repeat(lengths, heads, total_repeat_length=count))

    def one(query, key, value, readable=None):
        # Plain matrices: XLA's CPU backend multiplies them faster than the same with axes of length 1.
        logits = (query * query.shape[-1] ** -0.5).astype(jnp.float32) @ key.T.astype(jnp.float32)
        if readable is not None:
            logits = _readable(logits, readable)
        return jax.nn.softmax(logits, axis=-1).astype(value.dtype) @ value

    head = jax.checkpoint(lambda inputs: one(*inputs), prevent_cse=False)
    out = jax.lax.map(head, inputs, batch_size=None if block == 1 else block)
    return jnp.moveaxis(out.reshape(batch, heads, length, -1), 1, 2)


def _attention(query, key, value, lengths):
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("blnk,bmnk->bnlm", query, key, preferred_element_type=jnp.float32)
    if lengths is not None:
        logits = _readable(logits, lengths[:, None, None, None])
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bnlm,bmnk->blnk", weights, value)


def _readable(logits, lengths):
    """The logits, those of keys beyond the lengths as small as can be."""
    keys = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return jnp.where(keys < lengths, logits, jnp.finfo(logits.dtype).min)
