"""Flow matching in Wan's convention: x_σ = (1−σ)·x + σ·ε, v = ε − x, σ = 1 is pure noise.

The paper writes the same thing the other way round (its t is 1−σ and its v is −v).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tm_jax.diffusion.schedule import Schedule
from tm_jax.nn.layers import per_clip
from tm_jax.types import Latents


def sample_sigma(schedule: Schedule, key: PRNGKeyArray, batch: int) -> Float[Array, " {batch}"]:
    """One shifted noise level per clip, for training."""
    return schedule.warp(jax.random.uniform(key, (batch,)))


def add_noise(clean: Latents, noise: Latents, sigma: Float[Array, " b"]) -> Latents:
    """x_σ of each clip."""
    level = per_clip(sigma)
    return (1 - level) * clean + level * noise


def velocity(clean: Latents, noise: Latents) -> Latents:
    """The flow's target v = ε − x."""
    return noise - clean


def clean_from_velocity(noisy: Latents, v: Latents, sigma: Float[Array, " b"]) -> Latents:
    """The clean estimate x̂ = x_σ − σ·v."""
    return noisy - per_clip(sigma) * v


def mean_square(x: Float[Array, "b ..."]) -> Float[Array, ""]:
    """The mean of the squares, accumulated in float32."""
    return jnp.mean(jnp.square(x.astype(jnp.float32)))
