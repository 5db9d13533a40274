"""Wan's causal 3-D VAE: video ↔ latents, whole or as a stream (METHOD §3).

One class for Wan2.1's form (the defaults), for Wan2.2's options (a pixel patch, linear shortcuts) and
for the tiny models of the demo.  Frame 0 becomes latent 0; every later group of four frames, one latent.
Departure from the released code: a whole clip runs in one parallel pass over all its frames, which the
causal convolutions make equal to going group by group; streaming is the same pass with a past.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from tm_jax.errors import InputError
from tm_jax.models.vae_blocks import (
    Clip,
    DownStage,
    History,
    MiddleBlock,
    Resized,
    RMSNorm,
    UpStage,
    activate,
)
from tm_jax.models.vae_config import VAEConfig
from tm_jax.nn.convolution import CausalConv3d, Conv2d
from tm_jax.types import Latents, Video

State = tuple[Array, ...]
"""What a stream carries from step to step: the last inputs of every causal convolution, in running order."""


class Encoder(nnx.Module):
    """Patched video → moments of the latents."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        widths = [config.base_dim * factor for factor in (1, *config.dim_mult)]
        last = len(config.dim_mult) - 1
        self.conv_in = CausalConv3d(3 * config.patch_size**2, widths[0], rngs=rngs)
        self.stages = nnx.List(
            [
                DownStage(
                    widths[i],
                    widths[i + 1],
                    blocks=config.num_res_blocks,
                    spatial=i < last and config.halves[i],
                    temporal=i < last and config.temporal_downsample[i],
                    residual=config.residual,
                    rngs=rngs,
                )
                for i in range(last + 1)
            ]
        )
        self.middle = MiddleBlock(widths[-1], rngs=rngs)
        self.norm_out = None if config.linear_ends else RMSNorm(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], 2 * config.z_dim, rngs=rngs)

    def __call__(self, x: Clip, history: History) -> Resized:
        x = self.conv_in(history.extend(x, 2))
        for stage in self.stages:
            x = stage(x, history)
        x = self.middle(x, history)
        if self.norm_out is not None:
            x = activate(self.norm_out(x))
        return self.conv_out(history.extend(x, 2))


class Decoder(nnx.Module):
    """Latents → patched video."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        base = config.decoder_base_dim or config.base_dim
        factors = (config.decoder_dim_mult or config.dim_mult)[::-1]
        widths = [base * factor for factor in (factors[0], *factors)]
        last = len(factors) - 1
        # Wan2.1's upsampling has halved the width already when a later stage begins.
        enter = [width // 2 if i and not config.residual else width for i, width in enumerate(widths[:-1])]
        self.conv_in = CausalConv3d(config.z_dim, widths[0], rngs=rngs)
        self.middle = MiddleBlock(widths[0], rngs=rngs)
        self.stages = nnx.List(
            [
                UpStage(
                    enter[i],
                    widths[i + 1],
                    blocks=config.num_res_blocks + 1,
                    spatial=i < last and config.halves[last - 1 - i],
                    temporal=i < last and config.temporal_downsample[last - 1 - i],
                    residual=config.residual,
                    rngs=rngs,
                )
                for i in range(last + 1)
            ]
        )
        self.norm_out = None if config.linear_ends else RMSNorm(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], 3 * config.patch_size**2, rngs=rngs)

    def __call__(self, x: Clip, history: History) -> Resized:
        x = self.middle(self.conv_in(history.extend(x, 2)), history)
        for stage in self.stages:
            x = stage(x, history)
        if self.norm_out is not None:
            x = activate(self.norm_out(x))
        return self.conv_out(history.extend(x, 2))


class Refiner(nnx.Module):
    """Frames → sharper frames, each by itself: a residual network at a finer resolution than the decoder's.

    It starts as the identity.  Ours, not Wan's.
    """

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        colours, width = 3 * config.refine_patch**2, config.refine_dim
        self.patch, self.dtype = config.refine_patch, config.dtype
        self.conv_in = Conv2d(colours, width, rngs=rngs)
        self.blocks = nnx.List([RefinerBlock(width, rngs=rngs) for _ in range(config.refine_blocks)])
        self.norm_out = RMSNorm(width)
        self.conv_out = Conv2d(width, colours, rngs=rngs)
        self.conv_out.kernel[...] = jnp.zeros_like(self.conv_out.kernel[...])

    def __call__(self, video: Video) -> Video:
        x = self.conv_in(patchify(video, self.patch).astype(self.dtype))
        for block in self.blocks:
            x = block(x)
        change = self.conv_out(activate(self.norm_out(x)))
        return video + unpatchify(change.astype(jnp.float32), self.patch)


class RefinerBlock(nnx.Module):
    """Two 2-D convolutions beside a shortcut."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.norm1, self.norm2 = RMSNorm(channels), RMSNorm(channels)
        self.conv1 = Conv2d(channels, channels, rngs=rngs)
        self.conv2 = Conv2d(channels, channels, rngs=rngs)

    def __call__(self, x: Clip) -> Clip:
        y = self.conv1(activate(self.norm1(x)))
        return x + self.conv2(activate(self.norm2(y)))


class VAE(nnx.Module):
    """The causal VAE; latents outside are normalised per channel, video is in [-1, 1]."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.quant = nnx.Linear(2 * config.z_dim, 2 * config.z_dim, rngs=rngs)
        self.post_quant = nnx.Linear(config.z_dim, config.z_dim, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        self.refiner = Refiner(config, rngs=rngs) if config.refine_blocks else None

    def encode(self, video: Video) -> Latents:
        """The posterior's mean, normalised, of a whole clip of 1 + 4k frames.

        Raises:
            InputError: the length or the size does not fit the strides.
        """
        return self.normalise(self.encode_moments(video)[0])

    def encode_moments(self, video: Video) -> tuple[Latents, Latents]:
        """Mean and log-variance of the posterior of a whole clip, not normalised."""
        frames, *size = video.shape[1:4]
        stride = self.config.temporal_stride
        if frames % stride != 1 % stride:
            raise InputError(
                f"a clip of {frames} frames does not fit the VAE, cut it to 1 + {stride}k frames"
            )
        if any(side % self.config.spatial_stride for side in size):
            raise InputError(
                f"a picture of {size[1]}×{size[0]} does not fit the VAE, "
                f"crop it to multiples of {self.config.spatial_stride}"
            )
        return self._moments(video, History(None))

    def decode(self, latents: Latents) -> Video:
        """The video of a whole clip's latents: 1 + 4(f-1) frames, not clamped."""
        return self._video(latents, History(None))

    def encode_state(self, batch: int, y: int, x: int) -> State:
        """The state of a stream that has seen nothing."""
        video = jax.ShapeDtypeStruct((batch, 1, y, x, 3), jnp.float32)
        return _zeros(jax.eval_shape(functools.partial(self.encode_step, state=None, first=True), video)[1])

    def encode_step(
        self, frames: Float[Array, "b t y x 3"], state: State | None, *, first: bool
    ) -> tuple[Latents, State]:
        """One latent from the next frames of a stream: one frame if it is the first step, else four.

        A first step starts afresh, whatever the state holds.
        """
        history = History(None if first else state)
        mean, _ = self._moments(frames, history)
        return self.normalise(mean), tuple(history.left)

    def decode_state(self, batch: int, h: int, w: int) -> State:
        """The state of a stream that has decoded nothing."""
        latent = jax.ShapeDtypeStruct((batch, 1, h, w, self.config.z_dim), jnp.float32)
        return _zeros(jax.eval_shape(functools.partial(self.decode_step, state=None, first=True), latent)[1])

    def decode_step(self, latent: Latents, state: State | None, *, first: bool) -> tuple[Video, State]:
        """The next frames of a stream from one latent: one frame if it is the first step, else four.

        A first step starts afresh, whatever the state holds.
        """
        return self.decode_chunk(latent, state, first=first)

    def decode_chunk(self, latents: Latents, state: State | None, *, first: bool) -> tuple[Video, State]:
        """The next frames of a stream from f latents at once: 4f, or 4f-3 if the stream starts here."""
        history = History(None if first else state)
        video = self._video(latents, history)
        return video, tuple(history.left)

    def normalise(self, latents: Latents) -> Latents:
        """Latents scaled to mean 0 and variance 1 per channel over the training data."""
        mean, std = self._statistics()
        return (latents - mean) / std

    def denormalise(self, latents: Latents) -> Latents:
        """The inverse of ``normalise``."""
        mean, std = self._statistics()
        return latents * std + mean

    def _statistics(self) -> tuple[Array, Array]:
        across = lambda numbers: jnp.asarray(numbers, jnp.float32)[None, None, None, None, :]
        return across(self.config.latents_mean), across(self.config.latents_std)

    def _moments(self, video: Video, history: History) -> tuple[Latents, Latents]:
        x = patchify(video, self.config.patch_size).astype(self.config.dtype)
        moments = self.quant(self.encoder(x, history).astype(jnp.float32))
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def _video(self, latents: Latents, history: History) -> Video:
        x = self.post_quant(self.denormalise(latents)).astype(self.config.dtype)
        video = unpatchify(self.decoder(x, history).astype(jnp.float32), self.config.patch_size)
        return video if self.refiner is None else self.refiner(video)


def patchify(video: Video, side: int) -> Resized:
    """Squares of pixels as channels, ordered colour, column, row: Wan2.2's order."""
    if side == 1:
        return video
    batch, frames, height, width, colours = video.shape
    x = video.reshape(batch, frames, height // side, side, width // side, side, colours)
    return x.transpose(0, 1, 2, 4, 6, 5, 3).reshape(batch, frames, height // side, width // side, -1)


def unpatchify(x: Clip, side: int) -> Resized:
    """The inverse of ``patchify``."""
    if side == 1:
        return x
    batch, frames, height, width, _ = x.shape
    x = x.reshape(batch, frames, height, width, -1, side, side).transpose(0, 1, 2, 6, 3, 5, 4)
    return x.reshape(batch, frames, height * side, width * side, -1)


def _zeros(shapes: tuple[jax.ShapeDtypeStruct, ...]) -> State:
    return tuple(jnp.zeros(shape.shape, shape.dtype) for shape in shapes)
