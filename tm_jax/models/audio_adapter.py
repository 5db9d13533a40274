"""The audio module: how speech reaches the transformer (METHOD §4).

Every cross-attention layer gets keys and values of audio beside those of text and image.  The tokens
of a latent frame query that frame's own window of audio, and only inside the face.  Step 0 equals
the model without audio: values and the mode embedding start at zero, keys are ordinary.  Dropped
audio (``audio_keep`` 0) is zeros after projection, norm and slot position, so that its keys and
values vanish too.

A latent frame j ≥ 1 covers four video frames = 160 ms at 25 fps = the 50 Hz tokens 8j-6 … 8j+1;
frame 0 covers one video frame = tokens 0-1.  The window adds ``left`` tokens of past and ``lookahead``
of future.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from tm_jax.nn.attention import attention
from tm_jax.nn.layers import LayerNorm, dense
from tm_jax.nn.self_attention import each_its_own
from tm_jax.rates import TOKENS_PER_LATENT


def window_indices(
    latent_frames: Int[Array, "..."] | Int[np.ndarray, "..."], *, left: int, lookahead: int
) -> Int[Array, "... a"] | Int[np.ndarray, "... a"]:
    """Indices of the tokens in each latent frame's window; those outside the sound are for the caller."""
    slots = np.arange(left + TOKENS_PER_LATENT + lookahead) - left
    slots = slots.reshape((1,) * latent_frames.ndim + (-1,))
    return TOKENS_PER_LATENT * latent_frames[..., None] - 6 + slots


def audio_windows(
    tokens: Float[Array, "b L d"],
    latent_frames: Int[Array, "b f"] | Int[Array, " f"],
    left: int,
    lookahead: int,
) -> Float[Array, "b f a d"]:
    """The audio tokens that each latent frame may query, ``a = left + 8 + lookahead`` of them.

    ``tokens`` are at 50 Hz and token 0 starts with video frame 0; ``latent_frames`` counts latents by
    absolute time.  Tokens before the beginning or after the end are zeros.
    """
    if latent_frames.ndim == 1:
        latent_frames = jnp.broadcast_to(latent_frames[None], (tokens.shape[0], latent_frames.shape[0]))
    index = window_indices(latent_frames, left=left, lookahead=lookahead)
    inside = (index >= 0) & (index < tokens.shape[1])
    batch = jnp.arange(tokens.shape[0])[:, None, None]
    window = tokens[batch, jnp.clip(index, 0, tokens.shape[1] - 1)]
    return jnp.where(inside[..., None], window, 0)


class AudioEmbedding(nnx.Module):
    """Audio tokens → model tokens: projection, norm, learned position of the window slot, gate."""

    def __init__(self, inputs: int, width: int, slots: int, *, eps: float, dtype: str, rngs: nnx.Rngs):
        self.projection = dense(inputs, width, ("embed", "mlp"), rngs=rngs, dtype=dtype)
        self.norm = LayerNorm(width, eps=eps)
        self.position = nnx.Param(0.02 * nnx.initializers.normal(1.0)(rngs.params(), (slots, width)))
        self.dtype = dtype

    def __call__(
        self, tokens: Float[Array, "b f a audio_width"], keep: Float[Array, "b f"]
    ) -> Float[Array, "b f a audio_dim"]:
        embedded = self.norm(self.projection(tokens)) + self.position[...][None, None]
        return (embedded * keep[:, :, None, None]).astype(self.dtype)


class AudioAttention(nnx.Module):
    """One layer's audio keys and values, queried by the cross-attention's own queries."""

    def __init__(self, inputs: int, heads: int, head_dim: int, *, dtype: str, rngs: nnx.Rngs):
        width, axes = heads * head_dim, ("embed", "heads")
        self.key = dense(inputs, width, axes, rngs=rngs, dtype=dtype, use_bias=False)
        self.value = dense(
            inputs, width, axes, rngs=rngs, dtype=dtype, use_bias=False, init=nnx.initializers.zeros
        )

    def __call__(
        self,
        query: Float[Array, "b f s n k"],
        tokens: Float[Array, "b f a audio_dim"],
        face: Float[Array, "b s"],
        backend: str,
    ) -> Float[Array, "b f s n k"]:
        """What each token hears: frame f's tokens read frame f's window, scaled by the face mask.

        ``face`` holds the mask of the s tokens of a frame.
        """
        split = lambda x: x.reshape(*x.shape[:-1], *query.shape[3:])
        names = ("batch", None, None, "heads", None)

        def read(query, key, value):
            frames = lambda x: x.reshape(-1, *x.shape[2:])
            return attention(frames(query), frames(key), frames(value), backend=backend).reshape(query.shape)

        keys, values = split(self.key(tokens)), split(self.value(tokens))
        audio_read = each_its_own(read, query, (keys, names), (values, names))
        return audio_read * face[:, None, :, None, None].astype(audio_read.dtype)
