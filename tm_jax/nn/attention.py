"""One attention function and the switch between its implementations.

``xla`` runs everywhere, ``cudnn`` is the fused GPU kernel.  Softmax is float32 in both.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

BACKENDS = ("xla", "cudnn")


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
    if backend != "xla":
        raise ValueError(f"attention backend {backend!r}: known are {', '.join(BACKENDS)}")
    scale = query.shape[-1] ** -0.5
    logits = jnp.einsum("blnk,bmnk->bnlm", query * scale, key, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bnlm,bmnk->blnk", weights, value)
