"""One attention function and the switch between its implementations.

``xla`` runs everywhere; ``cudnn`` is the fused GPU kernel; ``blocked`` is for CPUs, where what attention
costs is the traffic of its logits: a few rows of the batch at a time stay in the cache, and the
backward pass makes them again.  It halves the time of attention at 336 tokens.  Softmax is float32 in all.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tm_jax.nn.backends import BACKENDS
from tm_jax.sharding import per_shard

BLOCK_BYTES = 2**21


def attention(
    query: Float[Array, "b l n k"],
    key: Float[Array, "b m n k"],
    value: Float[Array, "b m n k"],
    *,
    mask: Bool[Array, "#b #n #l m"] | None = None,
    backend: str = "xla",
) -> Float[Array, "b l n k"]:
    """Softmax attention with scale 1/√k; ``mask`` is True where a query may read a key.

    Raises ValueError for an unknown backend.
    """
    if backend == "cudnn":
        return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")
    if backend not in BACKENDS:
        raise ValueError(f"attention backend {backend!r}: known are {', '.join(BACKENDS)}")
    if backend == "xla":
        return _attention(query, key, value, mask)
    # A loop over the batch and the heads would undo their sharding, so that each device loops over its own.
    names = ("batch", None, "heads", None)
    arrays, axes = [query, key, value], [names] * 3
    if mask is not None:
        arrays, axes = [*arrays, mask], [*axes, ("batch", "heads", None, None)]
    return per_shard(_head_by_head, *arrays, names=axes, out=names)


def _head_by_head(query, key, value, mask=None):
    """A few heads of the batch after another, their logits made again in the backward pass."""
    batch, length, heads, _ = query.shape
    count = batch * heads
    block = max(1, BLOCK_BYTES // (4 * length * key.shape[1]))
    if block >= count:
        return _attention(query, key, value, mask)
    flat = lambda x: jnp.moveaxis(x, 2, 1).reshape(count, x.shape[1], x.shape[3])
    inputs = flat(query), flat(key), flat(value)
    if mask is None:
        shared = None
    elif mask.shape[:2] == (1, 1):
        shared = mask[0, 0]
    else:
        each = jnp.broadcast_to(mask, (batch, heads, *mask.shape[2:]))
        inputs, shared = (*inputs, each.reshape(count, *mask.shape[2:])), None

    def one(query, key, value, mask=shared):
        # Plain matrices: XLA's CPU backend multiplies them faster than the same with axes of length 1.
        logits = (query * query.shape[-1] ** -0.5).astype(jnp.float32) @ key.T.astype(jnp.float32)
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
        return jax.nn.softmax(logits, axis=-1).astype(value.dtype) @ value

    head = jax.checkpoint(lambda inputs: one(*inputs), prevent_cse=False)
    out = jax.lax.map(head, inputs, batch_size=None if block == 1 else block)
    return jnp.moveaxis(out.reshape(batch, heads, length, -1), 1, 2)


def _attention(query, key, value, mask):
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("blnk,bmnk->bnlm", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bnlm,bmnk->blnk", weights, value)
