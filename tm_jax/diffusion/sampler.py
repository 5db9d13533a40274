"""The teacher's sampler: Euler steps along the flow, with text and audio guidance.

Guidance in two parts (FantasyTalking's form): v = v∅∅ + w_t·(v_ta − v_∅a) + w_a·(v_∅a − v∅∅).  With
one weight for both, or with no text to drop, it is the classifier-free rule with two evaluations.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tm_jax.diffusion.face_cells import mouth_mask
from tm_jax.diffusion.schedule import Schedule
from tm_jax.models.dit import DiT
from tm_jax.nn.layers import per_clip
from tm_jax.nn.masks import AttentionPattern
from tm_jax.types import Conditioning, Latents

VelocityFunction = Callable[[Latents, Float[Array, " b"]], Latents]


@dataclasses.dataclass(frozen=True)
class Guidance:
    """How strongly the sampler follows audio and text; 1 is no guidance."""

    audio: float = 1.0
    """Weight of the audio direction w_a; 1 skips the evaluation without audio."""
    text: float = 1.0
    """Weight of the text direction w_t; 1 skips the evaluation without text."""
    mouth_alone: bool = False
    """Whether audio guides the cells of the mouth alone; the rest of the picture then has w_a = 1."""


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """How the teacher samples a clip."""

    steps: int = 20
    """Euler steps, each of one evaluation per guided direction."""
    schedule: Schedule = Schedule()
    guidance: Guidance = Guidance()

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"sampler: {self.steps} steps, give at least 1")


def without_audio(conditioning: Conditioning) -> Conditioning:
    """The same clip with its audio dropped."""
    return conditioning.replace(audio_keep=jnp.zeros_like(conditioning.audio_keep))


def guided_velocity(
    model: DiT,
    conditioning: Conditioning,
    guidance: Guidance,
    *,
    pattern: AttentionPattern,
    negative_text: Float[Array, "b text text_width"] | None = None,
) -> VelocityFunction:
    """v(x_σ, σ) with guidance; the directions are evaluated in one batch.

    Args:
        negative_text: embeddings of the text to steer away from, needed where ``guidance.text`` is not 1.

    Raises:
        ValueError: text guidance without negative text.
    """
    if guidance.text != 1 and negative_text is None:
        raise ValueError("text guidance needs the embeddings of a negative prompt")
    audio: Any = guidance.audio
    if guidance.mouth_alone:
        audio = 1 + (audio - 1) * mouth_mask(conditioning.face_mask)[:, None, :, :, None]
    variants, weights = [conditioning], [1.0]
    textless = conditioning if guidance.text == 1 else conditioning.replace(text_tokens=negative_text)
    if guidance.text != 1:
        variants, weights = [*variants, textless], [guidance.text, -guidance.text]
    if guidance.audio != 1:
        if guidance.text == 1:
            weights[0] = audio
        else:
            weights[1] += audio
        variants, weights = [*variants, without_audio(textless)], [*weights, 1 - audio]
    elif guidance.text != 1:
        weights[1] += 1.0
    together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *variants)

    def v(noisy: Latents, sigma: Float[Array, " b"]) -> Latents:
        count = len(variants)
        tiled = jnp.concatenate([noisy] * count), jnp.concatenate([sigma] * count)
        parts = jnp.split(model(*tiled, together, pattern=pattern), count)
        return sum(weight * part for weight, part in zip(weights, parts, strict=True))

    return v


def euler_sample(v: VelocityFunction, noise: Latents, sigmas: tuple[float, ...]) -> Latents:
    """Integrate the flow from σ = sigmas[0] to sigmas[-1] by Euler steps, starting from noise."""
    levels = jnp.asarray(sigmas, jnp.float32)

    def step(x, pair):
        sigma, following = pair
        level = jnp.broadcast_to(sigma, x.shape[:1])
        return x + per_clip(following - level) * v(x, level).astype(x.dtype), None

    return jax.lax.scan(step, noise, (levels[:-1], levels[1:]))[0]


def sample(
    model: DiT,
    conditioning: Conditioning,
    noise: Latents,
    config: SamplerConfig,
    *,
    pattern: AttentionPattern,
    negative_text: Float[Array, "b text text_width"] | None = None,
) -> Latents:
    """A clip's latents [b f h w c], sampled from the given noise with guidance."""
    v = guided_velocity(model, conditioning, config.guidance, pattern=pattern, negative_text=negative_text)
    return euler_sample(v, noise, config.schedule.steps(config.steps))
