"""One transformer block of Wan2.1 with audio: self-attention, cross-attention, feed-forward (METHOD §2, §4).

Self-attention and feed-forward are modulated and gated by the noise level; cross-attention is neither.
One set of cross-attention queries reads text, image and audio, each with its own keys and values; the
three outputs are summed before the output projection.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from tm_jax.models.audio_adapter import AudioAttention
from tm_jax.nn.attention import attention
from tm_jax.nn.cache import ChunkKV
from tm_jax.nn.layers import MLP, LayerNorm, RMSNorm, dense, gelu_tanh, layer_norm
from tm_jax.nn.remat import ATTENTION
from tm_jax.nn.self_attention import IN_TOKENS, each_its_own
from tm_jax.sharding import shard

HEADS_OUT, HEADS_IN = ("embed", "heads"), ("heads", "embed")
OF_ALL = ("batch", None, "heads", None)
"""Names of the axes of keys and values [b m n k] that every token reads."""


@flax.struct.dataclass
class Modulation:
    """Shift, scale and gate of one branch, each ``[b 1 1 d]``, float32."""

    shift: Any
    scale: Any
    gate: Any

    def apply(self, x: Array, eps: float) -> Array:
        """Layer norm of x, scaled and shifted; float32."""
        return layer_norm(x, eps) * (1.0 + self.scale) + self.shift


@flax.struct.dataclass
class CrossKV:
    """A block's keys and values of text and image, constant while a stream lasts.

    Each is [b tokens n k], with an axis of layers in front where all blocks' are held together.
    """

    text_keys: Any
    text_values: Any
    image_keys: Any
    """None in text-to-video, like the values."""
    image_values: Any


@flax.struct.dataclass
class AudioInputs:
    """What cross-attention needs of the audio."""

    tokens: Any
    """[b f a audio_dim]."""
    face: Any
    """[b s], the face mask of the s tokens of a frame."""


class QKV(nnx.Module):
    """Queries, keys, values and output of an attention, with norms over all heads together."""

    def __init__(self, width: int, heads: int, *, eps: float, dtype: str, rngs: nnx.Rngs):
        make = lambda axes: dense(width, width, axes, rngs=rngs, dtype=dtype)
        self.query, self.key, self.value = make(HEADS_OUT), make(HEADS_OUT), make(HEADS_OUT)
        self.out = make(HEADS_IN)
        self.query_norm, self.key_norm = RMSNorm(width, eps=eps), RMSNorm(width, eps=eps)
        self.heads, self.dtype = heads, dtype

    def split(self, x: Array) -> Array:
        """``[… d]`` → ``[… n k]`` in the compute dtype, for clips' tokens [b f s d] and others [b m d]."""
        x = x.astype(self.dtype).reshape(*x.shape[:-1], self.heads, x.shape[-1] // self.heads)
        return shard(x, *(IN_TOKENS if x.ndim == 5 else OF_ALL))

    def queries(self, x: Float[Array, "b f s d"]) -> Float[Array, "b f s n k"]:
        return self.split(self.query_norm(self.query(x)))

    def keys_values(self, x: Float[Array, "*tokens d"]) -> tuple[Array, Array]:
        """Normed keys (before RoPE) and values, each ``[… n k]``."""
        return self.split(self.key_norm(self.key(x))), self.split(self.value(x))

    def project(self, x: Float[Array, "b f s n k"]) -> Float[Array, "b f s d"]:
        return self.out(x.reshape(*x.shape[:-2], -1))


class ImageKV(nnx.Module):
    """Keys and values of the reference picture's tokens."""

    def __init__(self, width: int, *, eps: float, dtype: str, rngs: nnx.Rngs):
        self.key = dense(width, width, HEADS_OUT, rngs=rngs, dtype=dtype)
        self.value = dense(width, width, HEADS_OUT, rngs=rngs, dtype=dtype)
        self.key_norm = RMSNorm(width, eps=eps)


class Block(nnx.Module):
    """One layer.  ``attend(query, key, value, context)`` decides what self-attention reads."""

    def __init__(self, config, *, rngs: nnx.Rngs):
        width, eps, dtype = config.width, config.eps, config.dtype
        common = {"eps": eps, "dtype": dtype, "rngs": rngs}
        self.modulation = nnx.Param(jax.random.normal(rngs.params(), (6, width)) * width**-0.5)
        self.self_attention = QKV(width, config.heads, **common)
        self.cross_norm = LayerNorm(width, eps=eps)
        self.cross_attention = QKV(width, config.heads, **common)
        if config.has_image:
            self.image = ImageKV(width, **common)
        if config.has_audio:
            self.audio = AudioAttention(
                config.audio_dim, config.heads, width // config.heads, dtype=dtype, rngs=rngs
            )
        self.feed_forward = MLP(width, config.ffn, width, gelu_tanh, rngs=rngs, dtype=dtype)
        self.config = config

    def cross_keys_values(
        self, text: Float[Array, "b text d"], image: Float[Array, "b image d"] | None
    ) -> CrossKV:
        """This block's keys and values of embedded text and image."""
        text_keys, text_values = self.cross_attention.keys_values(text)
        if image is None:
            return CrossKV(text_keys, text_values, None, None)
        split = self.cross_attention.split
        image_keys = split(self.image.key_norm(self.image.key(image)))
        return CrossKV(text_keys, text_values, image_keys, split(self.image.value(image)))

    def __call__(
        self,
        x: Float[Array, "b f s d"],
        modulation: Float[Array, "b 6 d"],
        cross: CrossKV,
        audio: AudioInputs | None,
        attend: Callable,
        context: ChunkKV | None = None,
    ) -> tuple[Float[Array, "b f s d"], ChunkKV]:
        """The block's output, and the keys (before RoPE) and values that its self-attention wrote."""
        eps, dtype = self.config.eps, x.dtype
        parts = [part[:, None, None] for part in jnp.unstack(self.modulation[...][None] + modulation, axis=1)]
        before, after = Modulation(*parts[:3]), Modulation(*parts[3:])

        inputs = before.apply(x, eps).astype(dtype)
        query, (key, value) = self.self_attention.queries(inputs), self.self_attention.keys_values(inputs)
        read, written = attend(query, key, value, context)
        update = self.self_attention.project(checkpoint_name(read, ATTENTION))
        x = (x + update * before.gate).astype(dtype)

        x = x + self._cross(self.cross_norm(x).astype(dtype), cross, audio)

        inputs = after.apply(x, eps).astype(dtype)
        hidden = shard(self.feed_forward.hidden(inputs), "batch", None, "tokens", "mlp")
        x = (x + self.feed_forward.outer(hidden) * after.gate).astype(dtype)
        return shard(x, "batch", None, "stream", None), written

    def _cross(self, x: Array, cross: CrossKV, audio: AudioInputs | None) -> Array:
        backend = self.config.attention
        query = self.cross_attention.queries(x)

        def read(query, key, value):
            tokens = query.reshape(query.shape[0], -1, *query.shape[3:])
            return attention(tokens, key, value, backend=backend).reshape(query.shape)

        text_read = each_its_own(read, query, (cross.text_keys, OF_ALL), (cross.text_values, OF_ALL))
        if cross.image_keys is not None:
            text_read += each_its_own(read, query, (cross.image_keys, OF_ALL), (cross.image_values, OF_ALL))
        if audio is not None:
            text_read += self.audio(query, audio.tokens, audio.face, backend)
        return self.cross_attention.project(checkpoint_name(text_read, ATTENTION))
