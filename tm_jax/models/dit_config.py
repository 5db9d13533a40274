"""The sizes of the transformer, apart from it: whoever reads them needs no JAX."""

import dataclasses
import math
from typing import Any, Literal

from tm_jax.nn.backends import BACKENDS
from tm_jax.rates import TOKENS_PER_LATENT

LEAST_SIGMA = 0.02
"""Noise level below which a velocity that follows from a clean latent no longer grows."""


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Sizes of the transformer; the defaults are Wan2.1-I2V-14B with the audio module."""

    width: int = 5120
    """Channels of a token."""
    ffn: int = 13824
    """Hidden units of the feed-forward layers."""
    heads: int = 40
    """Attention heads."""
    layers: int = 40
    """Transformer blocks."""
    patch: tuple[int, int, int] = (1, 2, 2)
    """Latent frames, rows and columns in a token; the first must be 1."""
    in_channels: int = 36
    """Noisy latent + mask + condition latent (without image: the noisy latent alone)."""
    out_channels: int = 16
    """Latent channels."""
    text_width: int = 4096
    """Width of a text embedding."""
    text_length: int = 512
    """Text tokens, padding included."""
    image_width: int = 1280
    """Width of an image embedding."""
    image_length: int = 257
    """Image tokens."""
    has_image: bool = True
    """Image-to-video: image tokens and a condition beside the noisy latent.  False is text-to-video."""
    audio_width: int = 768
    """Width of an audio token as it comes in."""
    audio_dim: int = 3072
    """Width of an audio token inside; 0 leaves the audio module and the mode embedding out."""
    audio_left: int = 8
    """Audio tokens of the past in a latent frame's window."""
    audio_lookahead: int = 0
    """Audio tokens of the future in a latent frame's window, 20 ms of latency each, beside those that the
    front end waits for: wav2vec2's window hears 80 ms ahead, which is all the lookahead there is."""
    time_frequencies: int = 256
    """Cosines and sines of the noise level."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    eps: float = 1e-6
    """Added to the variance in norms."""
    image_eps: float = 1e-5
    """The same in the two norms of the image embedding."""
    audio_eps: float = 1e-6
    """The same in the norm of the audio embedding."""
    trained_frames: int = 21
    """Latent frames of a training clip: RoPE positions are pinned at its end."""
    predicts: Literal["velocity", "change"] = "velocity"
    """What the last layer gives: velocity, as Wan's does, or the change from the still condition to the clean
    latent, from which the velocity follows.  To repeat the noise, a velocity must carry a whole token of it
    through the layers, for which a narrow model has no room; a change is zero wherever nothing moves."""
    change_scale: float = 0.5
    """Standard deviation of clean latents round the still condition; read where predicts is change."""
    still_condition: bool = False
    """The condition holds the reference picture, still, in every frame; False is Wan's, mid-grey after the
    first.  What does not move is then beside the noise that hides it, and copying takes no attention."""
    dtype: str = "bfloat16"
    """Compute dtype; parameters, softmax, norms, modulation, RoPE and the head are float32."""
    remat: Literal["none", "products", "full", "offload"] = "full"
    """What each block keeps for the backward pass: everything, its products, its input alone, or that in the
    host's memory (`nn.remat`)."""
    attention: str = "auto"
    """Implementation of attention: auto is the fastest where the program runs; xla, cudnn (GPUs), splash
    (TPUs) or blocked (CPUs) insists on one."""

    def __post_init__(self):
        if min(self.width, self.ffn, self.heads, self.layers, self.in_channels, self.out_channels) < 1:
            raise ValueError("width, ffn, heads, layers, in_channels and out_channels must be at least 1")
        if self.width % self.heads or self.head_dim % 2:
            raise ValueError(f"width {self.width} does not split into {self.heads} heads of even size")
        if self.patch[0] != 1:
            raise ValueError(f"patch {self.patch}: a token must lie within one latent frame")
        if self.predicts == "change" and not (self.has_image and self.still_condition):
            raise ValueError("predicts 'change': only from a picture held still, so give still_condition too")
        if self.attention not in BACKENDS:
            raise ValueError(f"attention {self.attention!r}: known are {', '.join(BACKENDS)}")

    @staticmethod
    def renewed(fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of an older file as they are written now: ``remat`` was a flag once."""
        flags = {True: "full", False: "products"}
        return (
            {**fields, "remat": flags.get(fields["remat"], fields["remat"])} if "remat" in fields else fields
        )

    def mesh_sizes(self, height: int, width: int) -> dict[str, int]:
        """What a mesh has to divide (`sharding.check_mesh`), for latents of this height and width."""
        tokens = height // self.patch[1] * (width // self.patch[2])
        return {"heads": self.heads, "mlp": self.ffn, "tokens": tokens, "embed": self.width}

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.width // self.heads

    @property
    def image_patch(self) -> int | None:
        """Side of the square of latent cells that makes one image token; None if a picture encoder does."""
        patch = math.isqrt(self.image_width // self.out_channels)
        return patch if patch and self.image_width == self.out_channels * patch**2 else None

    @property
    def has_audio(self) -> bool:
        """Whether the model hears."""
        return self.audio_dim > 0

    @property
    def audio_slots(self) -> int:
        """Audio tokens in a latent frame's window."""
        return self.audio_left + TOKENS_PER_LATENT + self.audio_lookahead
