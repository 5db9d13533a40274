"""Floating-point operations of the transformer and the VAE, counted from their sizes alone.

A multiply-add is two operations.  Only matrix products and convolutions count: norms, softmax, RoPE and
optimizers are less than one percent and run at the speed of memory.  The compiler's own count is no use
here, since it takes the body of the scan over layers once.

Two totals answer two questions.  *Model* FLOPs are those of the mathematics, forward and backward, and
what MFU is measured by; *executed* FLOPs add what the backward pass computes again.
"""

import dataclasses
import math

from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae_config import VAEConfig


@dataclasses.dataclass(frozen=True)
class DiTFlops:
    """Forward operations of one evaluation, by what the backward pass makes of them."""

    entry: float
    """Products whose input is data, so that the backward pass has the kernel's gradient alone."""
    outside: float
    """Other products outside of the blocks: embeddings and head."""
    dense: float
    """Projections and feed-forward of all blocks."""
    attention: float
    """Logits and weighted sums of self-, text, image and audio attention of all blocks."""

    def __mul__(self, factor: float | int) -> "DiTFlops":
        return DiTFlops(*(factor * value for value in dataclasses.astuple(self)))

    __rmul__ = __mul__

    @property
    def forward(self) -> float:
        """Operations of one evaluation."""
        return self.entry + self.outside + self.dense + self.attention

    @property
    def backward(self) -> float:
        """Operations of the gradient by all parameters, without anything computed again."""
        return self.entry + 2 * (self.outside + self.dense + self.attention)

    @property
    def training(self) -> float:
        """Model FLOPs of a forward and a backward pass."""
        return self.forward + self.backward

    def repeated(self, remat: str, *, fused: bool = False) -> float:
        """What the backward pass computes again.

        Args:
          remat: what the blocks keep (`DiTConfig.remat`).
          fused: attention is a kernel of its own (cuDNN, splash), whose backward pass makes the logits again
            by itself, and whose forward pass must run again unless everything is kept.
        """
        logits = self.attention / 2
        if remat == "none":
            return logits if fused else 0.0
        if remat == "products":
            return self.attention + logits if fused else logits
        # Whole blocks: even the last product of a block, since the gate's gradient needs it.
        return self.dense + self.attention + (logits if fused else 0.0)


def dit_flops(
    config: DiTConfig,
    *,
    frames: int,
    height: int,
    width: int,
    chunk: int | None = None,
    late: bool = False,
    batch: int = 1,
) -> DiTFlops:
    """A whole clip: ``frames`` latents of height × width.

    Args:
      chunk: latents of a chunk under the sparse causal pattern, whose chunks read the first one, the
        one before and themselves; None is bidirectional.
      late: the chunks but the first come from late in a stream, so that the second reads three too.
    """
    spatial = _spatial_tokens(config, height, width)
    if chunk is None:
        read = float(frames * spatial)
    else:
        count = frames // chunk
        reads = [1, *(3 if late else min(i + 1, 3) for i in range(1, count))]
        read = sum(reads) / count * chunk * spatial
    return batch * _evaluation(config, frames, spatial, read, condition=True)


def chunk_flops(config: DiTConfig, *, chunk: int, height: int, width: int, batch: int = 1) -> DiTFlops:
    """One evaluation of a streamed chunk, which reads itself and two chunks from the cache.

    The keys and values of text and image are the stream's and not counted.
    """
    spatial = _spatial_tokens(config, height, width)
    return batch * _evaluation(config, chunk, spatial, 3.0 * chunk * spatial, condition=False)


def condition_flops(config: DiTConfig, *, batch: int = 1) -> float:
    """What a stream computes once: embedded text and image, and their keys and values in every layer."""
    entry, second, keys_values = _condition(config)
    return batch * (entry + second + config.layers * keys_values)


def _spatial_tokens(config: DiTConfig, height: int, width: int) -> int:
    return height // config.patch[1] * (width // config.patch[2])


def _condition(config: DiTConfig) -> tuple[float, float, float]:
    """First and second products of the embeddings of text and image, and a layer's keys and values."""
    d, text = config.width, config.text_length
    entry, second, tokens = 2.0 * text * config.text_width * d, 2.0 * text * d * d, text
    if config.has_image:
        image, wide = config.image_length, config.image_width
        entry, second, tokens = (
            entry + 2.0 * image * wide * wide,
            second + 2.0 * image * wide * d,
            text + image,
        )
    return entry, second, 2.0 * tokens * 2 * d * d


def _evaluation(config: DiTConfig, frames: int, spatial: int, read: float, *, condition: bool) -> DiTFlops:
    """``frames`` latents of ``spatial`` tokens, each of which self-attends to ``read`` keys on average."""
    d, tokens, patch = config.width, frames * spatial, math.prod(config.patch)
    entry = 2.0 * tokens * config.in_channels * patch * d + 2.0 * config.time_frequencies * d
    outside = 2.0 * (d * d + 6 * d * d) + 2.0 * tokens * d * config.out_channels * patch
    # Queries, keys, values and output of self-attention; queries and output of cross-attention.
    dense = 2.0 * tokens * (6 * d * d + 2 * d * config.ffn)
    keys = read + config.text_length
    if config.has_image:
        keys += config.image_length
    if config.has_audio:
        slots = frames * config.audio_slots
        entry += 2.0 * slots * config.audio_width * config.audio_dim
        dense += 2.0 * slots * config.audio_dim * 2 * d
        keys += config.audio_slots
    if condition:
        first, second, keys_values = _condition(config)
        entry, outside, dense = entry + first, outside + second, dense + keys_values
    attention = 4.0 * tokens * keys * d
    return DiTFlops(entry, outside, config.layers * dense, config.layers * attention)


def vae_encode_flops(config: VAEConfig, *, frames: int, height: int, width: int) -> float:
    """A whole clip of 1 + 4k video frames of height × width pixels → moments, forward."""
    y, x, t = height // config.patch_size, width // config.patch_size, frames
    widths = [config.base_dim * factor for factor in (1, *config.dim_mult)]
    total = _conv(3 * config.patch_size**2, widths[0], t * y * x)
    last = len(config.dim_mult) - 1
    for stage in range(last + 1):
        total += _residual_blocks(widths[stage], widths[stage + 1], config.num_res_blocks, t * y * x)
        if stage < last and config.halves[stage]:
            y, x = y // 2, x // 2
            total += _conv(widths[stage + 1], widths[stage + 1], t * y * x, taps=9)
        if stage < last and config.temporal_downsample[stage]:
            total += _conv(widths[stage + 1], widths[stage + 1], (t - 1) // 2 * y * x, taps=3)
            t = 1 + (t - 1) // 2
    total += _middle(widths[-1], t, y * x)
    moments = 2 * config.z_dim
    return total + _conv(widths[-1], moments, t * y * x) + 2.0 * t * y * x * moments * moments


def vae_decode_flops(
    config: VAEConfig, *, latents: int, height: int, width: int, starts: bool = False
) -> float:
    """``latents`` latents of height × width cells → video, forward.

    Args:
      starts: the first latent begins a stream, or a whole clip, and gives one frame and not four.
    """
    y, x, t = height, width, latents
    base, factors = (
        config.decoder_base_dim or config.base_dim,
        (config.decoder_dim_mult or config.dim_mult)[::-1],
    )
    widths = [base * factor for factor in (factors[0], *factors)]
    last = len(factors) - 1
    total = 2.0 * t * y * x * config.z_dim**2 + _conv(config.z_dim, widths[0], t * y * x)
    total += _middle(widths[0], t, y * x)
    for stage in range(last + 1):
        enters = widths[stage] // 2 if stage and not config.residual else widths[stage]
        inner = widths[stage + 1]
        total += _residual_blocks(enters, inner, config.num_res_blocks + 1, t * y * x)
        if stage < last and config.temporal_downsample[last - 1 - stage]:
            new = t - starts
            total += _conv(inner, 2 * inner, new * y * x, taps=3)
            t = starts + 2 * new
        if stage < last and config.halves[last - 1 - stage]:
            y, x = 2 * y, 2 * x
            total += _conv(inner, inner if config.residual else inner // 2, t * y * x, taps=9)
    total += _conv(widths[-1], 3 * config.patch_size**2, t * y * x)
    return total + _refiner(config, t, y * config.patch_size, x * config.patch_size)


def _conv(inputs: int, outputs: int, places: int, taps: int = 27) -> float:
    return 2.0 * taps * inputs * outputs * places


def _residual_blocks(inputs: int, outputs: int, count: int, places: int) -> float:
    shortcut = 0.0 if inputs == outputs else _conv(inputs, outputs, places, taps=1)
    first = _conv(inputs, outputs, places) + _conv(outputs, outputs, places) + shortcut
    return first + (count - 1) * 2 * _conv(outputs, outputs, places)


def _middle(channels: int, frames: int, cells: int) -> float:
    """Two residual blocks and the attention within each frame between them."""
    attention = frames * (2.0 * cells * 4 * channels**2 + 4.0 * cells**2 * channels)
    return _residual_blocks(channels, channels, 2, frames * cells) + attention


def _refiner(config: VAEConfig, frames: int, height: int, width: int) -> float:
    if not config.refine_blocks:
        return 0.0
    places = frames * height * width // config.refine_patch**2
    colours, inner = 3 * config.refine_patch**2, config.refine_dim
    ends = 2 * _conv(colours, inner, places, taps=9)
    return ends + config.refine_blocks * 2 * _conv(inner, inner, places, taps=9)
