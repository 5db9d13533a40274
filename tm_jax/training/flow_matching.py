"""Phase 2: the audio-conditioned teacher learns by flow matching on gapped and contiguous clips."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tm_jax.diffusion.face_cells import blink_weight, cell_weight
from tm_jax.diffusion.flow import add_noise, sample_sigma, velocity
from tm_jax.diffusion.schedule import Schedule
from tm_jax.nn.layers import per_clip
from tm_jax.types import Conditioning, Latents


@dataclasses.dataclass(frozen=True)
class FlowMatchingLoss:
    """How noise levels are drawn, how cells are weighted and how conditions are dropped."""

    schedule: Schedule = Schedule()
    face: float = 1.0
    """Weight of latent cells inside the face mask; cells outside weigh 1."""
    mouth: float | None = None
    """Weight of the cells where the mouth is, the middle of the mask's lower half; None for the face's.
    Little of a picture depends on the voice, and this is where it shows."""
    blink: float | None = None
    """Weight of the cells where the eyes are, in latent frames in which they shut; None for the face's.
    Blinks are rare and small: a hundredth of the loss without it."""
    low: float = 0.0
    """Noise level below which errors count as those of the clean latent do: an error of the velocity weighs
    (σ/low)².  0 for all alike."""
    drop_audio: float = 0.1
    """Probability that a clip is trained without its audio, so that guidance can do without it."""
    drop_text: float = 0.1
    """Probability that a clip's text tokens are zeroed."""


def drop_conditions(
    conditioning: Conditioning, key: PRNGKeyArray, *, audio: float, text: float
) -> Conditioning:
    """Each clip without its audio, or without its text, with these probabilities."""
    audio_key, text_key = jax.random.split(key)
    batch = conditioning.audio_keep.shape[0]
    keep_audio = jax.random.bernoulli(audio_key, 1 - audio, (batch, 1)).astype(conditioning.audio_keep.dtype)
    keep_text = jax.random.bernoulli(text_key, 1 - text, (batch, 1, 1)).astype(conditioning.text_tokens.dtype)
    return conditioning.replace(
        audio_keep=conditioning.audio_keep * keep_audio, text_tokens=conditioning.text_tokens * keep_text
    )


def weighted_mean_square(
    error: Latents, face_mask: Float[Array, "b h w"], face: float, mouth: float | None = None
) -> Float[Array, ""]:
    """Mean of the squared error, each cell by its ``cell_weight``."""
    return jnp.mean(cell_weight(face_mask, face, mouth) * jnp.square(error))


def level_weight(sigma: Float[Array, " b"], low: float) -> Float[Array, "b 1 1 1 1"]:
    """Factor of a velocity's error: σ/low below ``low``, else 1, so that there it is the clean latent's error
    over ``low``."""
    return per_clip(jnp.minimum(sigma / low, 1.0) if low else jnp.ones_like(sigma))


@flax.struct.dataclass
class NoisedClip:
    """Clips and the noise that is mixed with them: all that a loss needs, with nothing left to draw."""

    clean: Any
    """[b f h w c], like the noise."""
    noise: Any
    sigma: Any
    """[b], the noise level of each clip."""
    conditioning: Conditioning
    lids: Any = None
    """[b f], how far the eyes are shut, where a loss weighs that."""

    @property
    def noisy(self) -> Latents:
        """x_σ."""
        return add_noise(self.clean, self.noise, self.sigma)


def velocity_loss(
    predicted: Latents,
    clip: NoisedClip,
    *,
    face: float,
    mouth: float | None,
    low: float,
    blink: float | None = None,
) -> Float[Array, ""]:
    """Mean squared error of the predicted velocity, weighted by cell and by noise level."""
    error = level_weight(clip.sigma, low) * (predicted.astype(jnp.float32) - velocity(clip.clean, clip.noise))
    box = clip.conditioning.face_mask
    if blink is None:
        return weighted_mean_square(error, box, face, mouth)
    weight = cell_weight(box, face, mouth) + blink_weight(box, clip.lids, face, blink)
    return jnp.mean(weight * jnp.square(error))


def draw_clip(
    clean: Latents,
    lids: Float[Array, "b f"],
    conditioning: Conditioning,
    key: PRNGKeyArray,
    terms: FlowMatchingLoss,
) -> NoisedClip:
    """One noise level per clip and its noise; some conditions are dropped."""
    sigma_key, noise_key, drop_key = jax.random.split(key, 3)
    sigma = sample_sigma(terms.schedule, sigma_key, clean.shape[0])
    noise = jax.random.normal(noise_key, clean.shape, clean.dtype)
    conditioning = drop_conditions(conditioning, drop_key, audio=terms.drop_audio, text=terms.drop_text)
    return NoisedClip(clean, noise, sigma, conditioning, lids)
