"""Flow matching in Wan's convention: x_σ = (1−σ)·x + σ·ε, v = ε − x, σ = 1 is pure noise.

The paper writes the same thing the other way round (its t is 1−σ and its v is −v).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tm_jax.types import Latents


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which noise levels are visited."""

    shift: float = 5.0
    """Timestep shift s: σ' = s·σ / (1 + (s−1)·σ).  Wan's default is 5; 3 is advised at 480p and below."""

    def __post_init__(self):
        if self.shift <= 0:
            raise ValueError(f"schedule shift {self.shift}: must be positive")

    def warp(self, sigma):
        """The shifted noise level of an evenly spaced one."""
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

    def steps(self, count: int) -> tuple[float, ...]:
        """The ``count + 1`` noise levels of a sampler, from 1 down to 0."""
        return tuple(float(self.warp(1 - index / count)) for index in range(count + 1))

    def sample(self, key: PRNGKeyArray, batch: int) -> Float[Array, " {batch}"]:
        """One shifted noise level per clip, for training."""
        return self.warp(jax.random.uniform(key, (batch,)))


def per_clip(sigma: Float[Array, " b"]) -> Float[Array, "b 1 1 1 1"]:
    """The noise levels of a batch, shaped to multiply its latents."""
    return sigma[:, None, None, None, None]


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
