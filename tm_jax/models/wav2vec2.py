"""wav2vec2: speech at 16 kHz → 50 tokens a second (METHOD §4); base-960h's architecture.

A convolutional feature extractor (one group norm, in its first layer), a grouped positional
convolution under weight norm, and a post-norm encoder.  The network is bidirectional and normalises
over all time, so a stream has to cut it into windows: `wav2vec2_front_end` does that.

``skip`` marks leading tokens of a clip that are not sound but filler.  They are left out of every
statistic and of attention, so that a clip with filler gives what the clip without it gives; a stream
that has not yet filled its window needs this.

The vector that masks features in pretraining is held, for checkpoints to go in and out whole, and
never used; nor is there dropout.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from tm_jax.errors import InputError
from tm_jax.nn.attention import attention
from tm_jax.nn.layers import LayerNorm, dense, gelu_exact


@dataclasses.dataclass(frozen=True)
class Wav2Vec2Config:
    """Sizes of the speech encoder; the defaults are wav2vec2-base-960h's."""

    conv_widths: tuple[int, ...] = (512,) * 7
    """Channels of each layer of the feature extractor."""
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """Taps of each layer of the feature extractor."""
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """Stride of each layer of the feature extractor; their product is the samples of a token."""
    width: int = 768
    """Width of the encoder and of a token."""
    heads: int = 12
    """Attention heads; they divide the width."""
    ffn: int = 3072
    """Hidden units of the feed-forward layer."""
    layers: int = 12
    """Encoder blocks."""
    position_kernel: int = 128
    """Taps of the positional convolution."""
    position_groups: int = 16
    """Groups of the positional convolution; they divide the width."""
    eps: float = 1e-5
    """Added to the variance in the norms."""
    dtype: str = "float32"
    """Compute dtype; parameters, norms and softmax stay float32."""

    def __post_init__(self):
        if not len(self.conv_widths) == len(self.conv_kernels) == len(self.conv_strides) > 0:
            raise ValueError("Wav2Vec2Config.conv_widths, conv_kernels and conv_strides differ in length")
        if self.width % self.heads or self.width % self.position_groups:
            raise ValueError(
                f"Wav2Vec2Config.width = {self.width} is not divided by heads {self.heads} and "
                f"position_groups {self.position_groups}"
            )

    @property
    def samples_per_token(self) -> int:
        """Samples from one token to the next: 320."""
        return math.prod(self.conv_strides)

    @property
    def receptive_field(self) -> int:
        """Samples that the feature extractor reads for one token: 400."""
        reach, stride = 1, 1
        for kernel, step in zip(self.conv_kernels, self.conv_strides, strict=True):
            reach, stride = reach + (kernel - 1) * stride, stride * step
        return reach

    @property
    def tail(self) -> int:
        """Samples to append, so that every 320 samples give a token: 80."""
        return self.receptive_field - self.samples_per_token


def normalise(
    sound: Float[Array | np.ndarray, "b s"],
    skip: Int[Array | np.ndarray, " b"] | None = None,
    *,
    samples_per_token: int = 320,
) -> Float[Array, "b s"]:
    """The waveform with zero mean and unit variance, each clip by itself, as the encoder was trained.

    ``skip`` leading tokens of each clip count for nothing and come out as zeros.
    """
    if skip is None:
        skip = jnp.zeros(sound.shape[0], jnp.int32)
    sound = jnp.asarray(sound, jnp.float32)
    inside = jnp.arange(sound.shape[1])[None] >= samples_per_token * skip[:, None]
    count = jnp.maximum(inside.sum(1, keepdims=True), 1)
    mean = jnp.where(inside, sound, 0).sum(1, keepdims=True) / count
    centred = jnp.where(inside, sound - mean, 0)
    return centred * jax.lax.rsqrt(jnp.square(centred).sum(1, keepdims=True) / count + 1e-7)


class ConvLayer(nnx.Module):
    """One layer of the feature extractor: strided convolution without bias, then exact GELU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, *, norm: bool, dtype: str, rngs: nnx.Rngs
    ):
        self.stride, self.dtype = stride, dtype
        init = nnx.initializers.he_normal()
        self.kernel = nnx.Param(init(rngs.params(), (kernel, inputs, outputs)), axes=(None, "embed", "mlp"))
        self.scale = nnx.Param(jnp.ones(outputs), axes=("mlp",)) if norm else None
        self.bias = nnx.Param(jnp.zeros(outputs), axes=("mlp",)) if norm else None

    def __call__(self, x: Float[Array, "b l c"], first: Int[Array, " b"]) -> Float[Array, "b l2 c2"]:
        """The layer's output; output frames before ``first`` are kept out of the norm's statistics."""
        x = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            (self.stride,),
            "VALID",
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        if self.scale is not None:
            x = self._norm(x.astype(jnp.float32), first)
        return gelu_exact(x.astype(self.dtype))

    def _norm(self, x, first):
        """Group norm with one channel a group: each channel over time."""
        inside = (jnp.arange(x.shape[1])[None] >= first[:, None])[..., None]
        count = jnp.maximum(inside.sum(1, keepdims=True), 1)
        mean = jnp.where(inside, x, 0).sum(1, keepdims=True) / count
        variance = jnp.where(inside, jnp.square(x - mean), 0).sum(1, keepdims=True) / count
        x = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
        return x * self.scale[...][None, None] + self.bias[...][None, None]


class PositionConv(nnx.Module):
    """A grouped convolution over time whose kernel is kept as gain × direction, a gain for each tap."""

    def __init__(self, config: Wav2Vec2Config, *, rngs: nnx.Rngs):
        c = config
        self.config = config
        shape = (c.position_kernel, c.width // c.position_groups, c.width)
        direction = nnx.initializers.normal(2 * (c.position_kernel * c.width) ** -0.5)(rngs.params(), shape)
        self.direction = nnx.Param(direction, axes=(None, None, "embed"))
        self.gain = nnx.Param(jnp.sqrt(jnp.square(direction).sum((1, 2), keepdims=True)))
        self.bias = nnx.Param(jnp.zeros(c.width), axes=("embed",))

    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """The position signal to be added to x."""
        c = self.config
        direction = self.direction[...]
        length = jnp.sqrt(jnp.square(direction).sum((1, 2), keepdims=True))
        kernel = direction * (self.gain[...] / length)
        left = c.position_kernel // 2
        x = jax.lax.conv_general_dilated(
            x,
            kernel.astype(c.dtype),
            (1,),
            [(left, c.position_kernel - 1 - left)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=c.position_groups,
        )
        return gelu_exact(x + self.bias[...].astype(c.dtype)[None, None])


class Wav2Vec2Block(nnx.Module):
    """Self-attention, then a feed-forward layer, each followed by its norm."""

    def __init__(self, config: Wav2Vec2Config, *, rngs: nnx.Rngs):
        c = config
        self.config = config
        self.query = dense(c.width, c.width, ("embed", "heads"), rngs=rngs, dtype=c.dtype)
        self.key = dense(c.width, c.width, ("embed", "heads"), rngs=rngs, dtype=c.dtype)
        self.value = dense(c.width, c.width, ("embed", "heads"), rngs=rngs, dtype=c.dtype)
        self.out = dense(c.width, c.width, ("heads", "embed"), rngs=rngs, dtype=c.dtype)
        self.attention_norm = LayerNorm(c.width, eps=c.eps)
        self.up = dense(c.width, c.ffn, ("embed", "mlp"), rngs=rngs, dtype=c.dtype)
        self.down = dense(c.ffn, c.width, ("mlp", "embed"), rngs=rngs, dtype=c.dtype)
        self.ffn_norm = LayerNorm(c.width, eps=c.eps)

    def __call__(self, x: Float[Array, "b l d"], skip: Int[Array, " b"]) -> Float[Array, "b l d"]:
        """One block; the first ``skip`` tokens are not attended."""
        c = self.config
        b, length, d = x.shape
        q, k, v = (f(x).reshape(b, length, c.heads, d // c.heads) for f in (self.query, self.key, self.value))
        # Keys have no order of their own: backwards, those to skip are the last ones.
        attended = attention(q, k[:, ::-1], v[:, ::-1], lengths=length - skip).reshape(b, length, d)
        x = self.attention_norm(x + self.out(attended)).astype(c.dtype)
        return self.ffn_norm(x + self.down(gelu_exact(self.up(x)))).astype(c.dtype)


class Wav2Vec2(nnx.Module):
    """The speech encoder: normalised waveform → tokens."""

    def __init__(self, config: Wav2Vec2Config = Wav2Vec2Config(), *, rngs: nnx.Rngs):
        c = config
        self.config = config
        inputs = (1, *c.conv_widths[:-1])
        layers = zip(inputs, c.conv_widths, c.conv_kernels, c.conv_strides, strict=True)
        self.extractor = nnx.List(
            [ConvLayer(*sizes, norm=i == 0, dtype=c.dtype, rngs=rngs) for i, sizes in enumerate(layers)]
        )
        self.feature_norm = LayerNorm(c.conv_widths[-1], eps=c.eps)
        self.projection = dense(c.conv_widths[-1], c.width, ("mlp", "embed"), rngs=rngs, dtype=c.dtype)
        self.mask_vector = nnx.Param(nnx.initializers.uniform(1.0)(rngs.params(), (c.width,)))
        self.position = PositionConv(c, rngs=rngs)
        self.input_norm = LayerNorm(c.width, eps=c.eps)
        keys = jax.random.split(rngs.params(), c.layers)
        self.blocks = jax.vmap(lambda key: Wav2Vec2Block(c, rngs=nnx.Rngs(key)))(keys)

    def features(
        self, sound: Float[Array, "b s"], skip: Int[Array, " b"] | None = None
    ) -> Float[Array, "b a c"]:
        """The feature extractor's output, before the projection."""
        c = self.config
        if sound.shape[1] < c.receptive_field:
            raise InputError(
                f"the sound has {sound.shape[1]} samples, a token needs {c.receptive_field}: append zeros"
            )
        skip = jnp.zeros(sound.shape[0], jnp.int32) if skip is None else skip
        x = sound[..., None]
        frames_per_token = c.samples_per_token
        for layer in self.extractor:
            frames_per_token //= layer.stride
            x = layer(x, skip * frames_per_token)
        return x

    def _run(self, sound, skip, keep: bool):
        c = self.config
        skip = jnp.zeros(sound.shape[0], jnp.int32) if skip is None else skip
        x = self.projection(self.feature_norm(self.features(sound, skip)).astype(c.dtype))
        x = jnp.where((jnp.arange(x.shape[1])[None] >= skip[:, None])[..., None], x, 0)
        x = self.input_norm(x + self.position(x)).astype(c.dtype)

        def step(x, block):
            y = block(x, skip)
            return y, (y if keep else None)

        last, outputs = jax.lax.scan(step, x, self.blocks)
        return x, outputs, last

    def __call__(
        self, sound: Float[Array, "b s"], skip: Int[Array, " b"] | None = None
    ) -> Float[Array, "b a d"]:
        """Tokens of a waveform at 16 kHz that `normalise` has prepared, (s - 400) // 320 + 1 of them.

        Append ``config.tail`` zeros to get a token for every 320 samples.  Tokens before ``skip`` hold
        nothing of use.  Raises InputError for a sound too short for one token.
        """
        return self._run(sound, skip, keep=False)[2]

    def hidden_states(
        self, sound: Float[Array, "b s"], skip: Int[Array, " b"] | None = None
    ) -> Float[Array, "states b a d"]:
        """The encoder's input and the output of every block, stacked."""
        first, outputs, _ = self._run(sound, skip, keep=True)
        return jnp.concatenate([first[None], outputs])
