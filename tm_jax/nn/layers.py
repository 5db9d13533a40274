"""Dense layers, norms and time features in the forms that Wan2.1 uses (METHOD §2).

Parameters are float32 and products run in the compute dtype of the model; norms compute and return
float32, so that the caller says where precision is dropped.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

Axes = tuple[str | None, ...]


def dense(
    inputs: int,
    outputs: int,
    axes: Axes,
    *,
    rngs: nnx.Rngs,
    dtype: str,
    use_bias: bool = True,
    init: nnx.Initializer = nnx.initializers.xavier_uniform(),
) -> nnx.Linear:
    """A linear layer whose kernel [inputs, outputs] carries the logical names ``axes``."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=use_bias,
        dtype=jnp.dtype(dtype),
        kernel_init=init,
        kernel_metadata={"axes": axes},
        rngs=rngs,
    )


def layer_norm(x: Float[Array, "... d"], eps: float) -> Float[Array, "... d"]:
    """Zero mean and unit variance over the last axis, in float32, without scale or shift."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)


def _along_last(vector: Array, ndim: int) -> Array:
    return vector.reshape((1,) * (ndim - 1) + (-1,))


class LayerNorm(nnx.Module):
    """Layer norm with scale and shift; float32 out."""

    def __init__(self, width: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,)))
        self.eps = eps

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        return layer_norm(x, self.eps) * _along_last(self.scale[...], x.ndim) + _along_last(
            self.bias[...], x.ndim
        )


class RMSNorm(nnx.Module):
    """Root-mean-square norm with scale; float32 out."""

    def __init__(self, width: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.eps = eps

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        x = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps)
        return x * inverse * _along_last(self.scale[...], x.ndim)


class MLP(nnx.Module):
    """Two dense layers with an activation between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, activation, *, rngs: nnx.Rngs, dtype: str):
        self.inner = dense(inputs, hidden, ("embed", "mlp"), rngs=rngs, dtype=dtype)
        self.outer = dense(hidden, outputs, ("mlp", "embed"), rngs=rngs, dtype=dtype)
        self.activation = activation

    def hidden(self, x: Float[Array, "... d"]) -> Float[Array, "... hidden"]:
        """What the second layer reads."""
        return self.activation(self.inner(x))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... e"]:
        return self.outer(self.hidden(x))


class PatchEmbedding(nnx.Module):
    """Patches → tokens: a convolution whose stride is its kernel, done as one product.

    The kernel keeps the convolution's axes [time, height, width, in, out], as checkpoints do.
    """

    def __init__(self, patch: tuple[int, int, int], inputs: int, outputs: int, *, rngs: nnx.Rngs, dtype: str):
        size = inputs * math.prod(patch)
        kernel = nnx.initializers.xavier_uniform()(rngs.params(), (size, outputs))
        axes = (None, None, None, None, "embed")
        self.kernel = nnx.Param(kernel.reshape(*patch, inputs, outputs), axes=axes)
        self.bias = nnx.Param(jnp.zeros((outputs,)))
        self.dtype = dtype

    def __call__(self, patches: Float[Array, "b f s p"]) -> Float[Array, "b f s d"]:
        kernel = self.kernel[...].reshape(patches.shape[-1], -1).astype(self.dtype)
        return patches.astype(self.dtype) @ kernel + _along_last(self.bias[...].astype(self.dtype), 4)


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The tanh approximation of GELU (feed-forward and text layers)."""
    return jax.nn.gelu(x, approximate=True)


def gelu_exact(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU by the error function (image layers)."""
    return jax.nn.gelu(x, approximate=False)


def time_features(sigma: Float[Array, " b"], width: int) -> Float[Array, "b width"]:
    """``[cos | sin]`` of t = 1000·σ at ``width/2`` frequencies from 1 down towards 1/10000, in float32."""
    half = width // 2
    frequencies = np.exp(-np.log(10000.0) * np.arange(half) / half).astype(np.float32)
    angles = (1000.0 * sigma.astype(jnp.float32))[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def per_clip(sigma: Float[Array, " b"]) -> Float[Array, "b 1 1 1 1"]:
    """The noise levels of a batch, shaped to multiply its latents."""
    return sigma[:, None, None, None, None]
