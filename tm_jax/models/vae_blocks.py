"""The parts of Wan's causal VAE: norm, residual block, attention in a frame, resampling, and their history.

Every part takes a clip [b t y x c] and a History.  The history is the only state: the last frames that
each causal convolution saw, in the order in which the network runs them.
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from tm_jax.nn.convolution import CausalConv3d, Conv2d

Clip = Float[Array, "b t y x c"]
Resized = Float[Array, "b _ _ _ _"]
"""A clip whose length, size or width may differ from the argument's."""


class History:
    """The past that one pass over a network reads, and the past that it leaves for the next pass.

    It lives inside one call: ``state`` comes in as a tuple of arrays and ``left`` goes out as one.
    """

    def __init__(self, state: tuple[Array, ...] | None):
        self.starts = state is None
        self.left: list[Array] = []
        self._state = state

    def extend(self, x: Clip, frames: int) -> Resized:
        """The clip with the ``frames`` frames before it at its front (zeros at a stream's start)."""
        if self._state is None:
            past = jnp.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype)
        else:
            past = self._state[len(self.left)].astype(x.dtype)
        longer = jnp.concatenate([past, x], axis=1)
        self.keep(longer, frames)
        return longer

    def keep(self, x: Clip, frames: int) -> None:
        """Leave the last frames of x as this place's past."""
        self.left.append(x[:, x.shape[1] - frames :])


class RMSNorm(nnx.Module):
    """Scales every vector of channels to the length √channels, in float32."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))

    def __call__(self, x: Clip) -> Clip:
        wide = x.astype(jnp.float32)
        length = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(wide), axis=-1, keepdims=True), 1e-24))
        gain = self.scale[...] * x.shape[-1] ** 0.5
        return (wide / length * gain[None, None, None, None, :]).astype(x.dtype)


def activate(x: Clip) -> Clip:
    """SiLU in float32."""
    return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)


class ResidualBlock(nnx.Module):
    """Two causal convolutions beside a shortcut, which is a matrix where the width changes."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.norm1 = RMSNorm(inputs)
        self.conv1 = CausalConv3d(inputs, outputs, rngs=rngs)
        self.norm2 = RMSNorm(outputs)
        self.conv2 = CausalConv3d(outputs, outputs, rngs=rngs)
        self.shortcut = (
            None if inputs == outputs else CausalConv3d(inputs, outputs, size=(1, 1, 1), rngs=rngs)
        )

    def __call__(self, x: Clip, history: History) -> Resized:
        y = self.conv1(history.extend(activate(self.norm1(x)), 2))
        y = self.conv2(history.extend(activate(self.norm2(y)), 2))
        return y + (x if self.shortcut is None else self.shortcut(x))


class FrameAttention(nnx.Module):
    """Single-head self-attention among the places of one frame."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.norm = RMSNorm(channels)
        self.qkv = nnx.Linear(channels, 3 * channels, rngs=rngs)
        self.out = nnx.Linear(channels, channels, rngs=rngs)

    def __call__(self, x: Clip) -> Clip:
        batch, frames, height, width, channels = x.shape
        tokens = self.norm(x).reshape(batch, frames, height * width, channels)
        q, k, v = jnp.split(_linear(self.qkv, tokens), 3, axis=-1)
        scores = jnp.einsum("btid,btjd->btij", q, k, preferred_element_type=jnp.float32) * channels**-0.5
        mixed = jnp.einsum("btij,btjd->btid", jax.nn.softmax(scores).astype(x.dtype), v)
        return x + _linear(self.out, mixed).reshape(x.shape)


def _linear(layer: nnx.Linear, x: Array) -> Array:
    """The layer in the dtype of its input."""
    return x @ layer.kernel[...].astype(x.dtype) + layer.bias[...].astype(x.dtype)[None, None, None, :]


class MiddleBlock(nnx.Module):
    """Residual block, attention, residual block at the narrowest place."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.resnets = nnx.List([ResidualBlock(channels, channels, rngs=rngs) for _ in range(2)])
        self.attention = FrameAttention(channels, rngs=rngs)

    def __call__(self, x: Clip, history: History) -> Clip:
        x = self.attention(self.resnets[0](x, history))
        return self.resnets[1](x, history)


class Downsample(nnx.Module):
    """Halves the picture, the frame rate or both; a stream's first frame bypasses the latter."""

    def __init__(self, channels: int, *, spatial: bool, temporal: bool, rngs: nnx.Rngs):
        self.conv = Conv2d(channels, channels, stride=2, rngs=rngs) if spatial else None
        self.time_conv = (
            CausalConv3d(channels, channels, size=(3, 1, 1), stride=2, rngs=rngs) if temporal else None
        )

    def __call__(self, x: Clip, history: History) -> Resized:
        x = x if self.conv is None else self.conv(x)
        if self.time_conv is None:
            return x
        if not history.starts:
            return self.time_conv(history.extend(x, 1))
        history.keep(x, 1)
        return x if x.shape[1] == 1 else jnp.concatenate([x[:, :1], self.time_conv(x)], axis=1)


class Upsample(nnx.Module):
    """Doubles the picture, the frame rate or both.

    The first frame of a stream bypasses the temporal convolution, which on the second frame starts from
    zeros and not from the first: Wan's decoder was trained so.
    """

    def __init__(self, channels: int, outputs: int, *, spatial: bool, temporal: bool, rngs: nnx.Rngs):
        self.conv = Conv2d(channels, outputs, rngs=rngs) if spatial else None
        self.time_conv = CausalConv3d(channels, 2 * channels, size=(3, 1, 1), rngs=rngs) if temporal else None

    def __call__(self, x: Clip, history: History) -> Resized:
        if self.time_conv is not None:
            bypassing, rest = (x[:, :1], x[:, 1:]) if history.starts else (x[:, :0], x)
            longer = history.extend(rest, 2)
            x = jnp.concatenate([bypassing, self._double(longer)], axis=1) if rest.shape[1] else bypassing
        return x if self.conv is None else self.conv(jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3))

    def _double(self, longer: Clip) -> Resized:
        """Two frames from every frame but the two in front."""
        pairs = self.time_conv(longer)
        batch, frames, height, width, channels = pairs.shape
        pairs = pairs.reshape(batch, frames, height, width, 2, channels // 2)
        return pairs.transpose(0, 1, 4, 2, 3, 5).reshape(batch, 2 * frames, height, width, channels // 2)


def average_down(x: Clip, outputs: int, *, temporal: bool, spatial: bool, starts: bool) -> Resized:
    """Wan2.2's parameter-free shortcut down: 2×2(×2) neighbours become channels, averaged in groups.

    Args:
        starts: whether x begins a stream, whose lone first frame is then paired with a frame of zeros.
    """
    in_time, in_space = 1 + temporal, 1 + spatial
    if temporal and starts:
        x = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
    batch, frames, height, width, channels = x.shape
    frames, height, width = frames // in_time, height // in_space, width // in_space
    x = x.reshape(batch, frames, in_time, height, in_space, width, in_space, channels)
    x = x.transpose(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(batch, frames, height, width, outputs, -1).mean(axis=-1)


def duplicate_up(x: Clip, outputs: int, *, temporal: bool, spatial: bool, starts: bool) -> Resized:
    """Wan2.2's parameter-free shortcut up: channels are repeated, then dealt out to 2×2(×2) neighbours.

    Args:
        starts: whether x begins a stream, whose first frame gives one frame and not two.
    """
    in_time, in_space = 1 + temporal, 1 + spatial
    batch, frames, height, width, channels = x.shape
    x = jnp.repeat(x, outputs * in_time * in_space**2 // channels, axis=-1)
    x = x.reshape(batch, frames, height, width, outputs, in_time, in_space, in_space)
    x = x.transpose(0, 1, 5, 2, 6, 3, 7, 4)
    x = x.reshape(batch, in_time * frames, in_space * height, in_space * width, outputs)
    return x[:, 1:] if temporal and starts else x


class DownStage(nnx.Module):
    """The residual blocks of one resolution of the encoder and the step to the next."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        blocks: int,
        spatial: bool,
        temporal: bool,
        residual: bool,
        rngs: nnx.Rngs,
    ):
        widths = [inputs, *[outputs] * blocks]
        self.resnets = nnx.List([ResidualBlock(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])
        moves = {"spatial": spatial, "temporal": temporal}
        self.resample = Downsample(outputs, **moves, rngs=rngs) if spatial or temporal else None
        self.outputs, self.spatial, self.temporal, self.residual = outputs, spatial, temporal, residual

    def __call__(self, x: Clip, history: History) -> Resized:
        y = x
        for resnet in self.resnets:
            y = resnet(y, history)
        if self.resample is not None:
            y = self.resample(y, history)
        if not self.residual:
            return y
        return y + average_down(
            x, self.outputs, temporal=self.temporal, spatial=self.spatial, starts=history.starts
        )


class UpStage(nnx.Module):
    """The residual blocks of one resolution of the decoder and the step to the next."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        blocks: int,
        spatial: bool,
        temporal: bool,
        residual: bool,
        rngs: nnx.Rngs,
    ):
        widths = [inputs, *[outputs] * blocks]
        self.resnets = nnx.List([ResidualBlock(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])
        # Wan2.1 halves the width on the way up; Wan2.2 keeps it, for its shortcut to be added.
        wide = outputs if residual else outputs // 2
        moves = {"spatial": spatial, "temporal": temporal}
        self.resample = Upsample(outputs, wide, **moves, rngs=rngs) if spatial or temporal else None
        self.outputs, self.spatial, self.temporal, self.residual = outputs, spatial, temporal, residual

    def __call__(self, x: Clip, history: History) -> Resized:
        y = x
        for resnet in self.resnets:
            y = resnet(y, history)
        if self.resample is None:
            return y
        y = self.resample(y, history)
        if not self.residual:
            return y
        return y + duplicate_up(
            x, self.outputs, temporal=self.temporal, spatial=self.spatial, starts=history.starts
        )
