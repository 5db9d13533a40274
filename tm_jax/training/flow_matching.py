"""Phase 2: the audio-conditioned teacher learns by flow matching on gapped and contiguous clips."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tm_jax.diffusion.flow import add_noise, sample_sigma, velocity
from tm_jax.diffusion.schedule import Schedule
from tm_jax.models.dit import DiT
from tm_jax.nn.layers import per_clip
from tm_jax.nn.masks import AttentionPattern
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


def _part(
    face_mask: Float[Array, "b h w"], rows: tuple[float, float], columns: tuple[float, float]
) -> Float[Array, "b h w"]:
    """1 in a part of the face mask, which is a box, given by shares of its height and width; 0 elsewhere."""

    def within(inside: Float[Array, "b n"], low: float, high: float) -> Float[Array, "b n"]:
        place = (jnp.cumsum(inside, axis=1) - 0.5) / jnp.maximum(inside.sum(1, keepdims=True), 1)
        return inside * (place > low) * (place < high)

    tall, wide = within(face_mask.max(axis=2), *rows), within(face_mask.max(axis=1), *columns)
    return tall[:, :, None] * wide[:, None, :]


def mouth_mask(face_mask: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """1 in the lower half and the middle three fifths of the face mask; 0 elsewhere."""
    return _part(face_mask, (0.5, 1.0), (0.2, 0.8))


def eye_mask(face_mask: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """1 in the second quarter from above and the middle seven tenths of the face mask; 0 elsewhere."""
    return _part(face_mask, (0.25, 0.5), (0.15, 0.85))


def cell_weight(
    face_mask: Float[Array, "b h w"], face: float, mouth: float | None = None
) -> Float[Array, "b 1 h w 1"]:
    """Weight of each latent cell: ``face`` inside the mask, ``mouth`` where the mouth is and 1 outside."""
    weight = 1 + (face - 1) * face_mask
    if mouth is not None:
        weight = weight + (mouth - face) * mouth_mask(face_mask)
    return weight[:, None, :, :, None]


def blink_weight(
    face_mask: Float[Array, "b h w"], lids: Float[Array, "b f"], face: float, blink: float
) -> Float[Array, "b f h w 1"]:
    """What is added to ``cell_weight`` in the cells of the eyes, the more the further they are shut."""
    return (blink - face) * (lids[:, :, None, None] * eye_mask(face_mask)[:, None])[..., None]


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
    model: DiT,
    clip: NoisedClip,
    *,
    pattern: AttentionPattern,
    face: float,
    mouth: float | None,
    low: float,
    blink: float | None = None,
) -> Float[Array, ""]:
    """Mean squared error of the predicted velocity, weighted by cell and by noise level."""
    predicted = model(clip.noisy, clip.sigma, clip.conditioning, pattern=pattern)
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
