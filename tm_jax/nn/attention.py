"""One attention function and the switch between its implementations.

``xla`` runs everywhere; ``cudnn`` is the fused GPU kernel; ``blocked`` is for CPUs, where what attention
costs is the traffic of its logits: a few rows of the batch at a time stay in the cache, and the
backward pass makes them again.  It halves the time of attention at 336 tokens.  Softmax is float32 in all.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

BACKENDS = ("xla", "cudnn", "blocked")
BLOCK_BYTES = 2**20


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
    batch, length, heads, _ = query.shape
    block = max(1, BLOCK_BYTES // (4 * length * heads * key.shape[1]))
    # A loop over the batch would undo its sharding.
    if backend == "xla" or block >= batch or not jax.sharding.get_abstract_mesh().empty:
        return _attention(query, key, value, mask)
    if mask is None:
        rows = lambda inputs: _attention(*inputs, None)
        return _by_rows(rows, (query, key, value), block)
    mask = jnp.broadcast_to(mask, (batch, *mask.shape[1:]))
    return _by_rows(lambda inputs: _attention(*inputs), (query, key, value, mask), block)


def _by_rows(function, inputs, block: int):
    """``function`` over blocks of the batch in turn, its intermediates made again in the backward pass."""
    batched = jax.checkpoint(function, prevent_cse=False)
    one = lambda row: batched(jax.tree.map(lambda x: x[None], row))[0]
    return jax.lax.map(one, inputs, batch_size=None if block == 1 else block)


def _attention(query, key, value, mask):
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("blnk,bmnk->bnlm", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bnlm,bmnk->blnk", weights, value)
