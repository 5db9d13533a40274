"""Phase 1: the VAE learns to reconstruct short windows of video.

Loss = squared error, weighted where the mouth is, + the same on frame-to-frame differences (what the
eye reads as flicker) and on differences between neighbouring pixels (what it reads as sharpness),
+ a small KL term that keeps the latents bounded.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tm_jax.models.vae import VAE
from tm_jax.types import Video


@dataclasses.dataclass(frozen=True)
class AutoencodingLoss:
    """Weights of the terms of the VAE's loss."""

    mouth: float = 3.0
    """Weight of pixels inside the mouth's box; all others weigh 1."""
    motion: float = 2.0
    """Weight of the error of frame-to-frame differences."""
    edges: float = 1.0
    """Weight of the error of differences between neighbouring pixels."""
    kl: float = 1e-6
    """Weight of the KL divergence to a unit normal, per latent number."""


def autoencoding_loss(
    vae: VAE,
    video: Video,
    weight: Float[Array, "b t y x 1"],
    key: PRNGKeyArray,
    terms: AutoencodingLoss,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one batch of windows and the figures to log.

    Args:
        weight: weight of every pixel; it should average about 1.
        key: draws the latents from their posterior.
    """
    mean, log_variance = vae.encode_moments(video)
    drawn = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
    error = vae.decode(vae.normalise(drawn)) - video
    pixels = jnp.mean(weight * jnp.square(error))
    motion = jnp.mean(weight[:, 1:] * jnp.square(error[:, 1:] - error[:, :-1]))
    edges = jnp.mean(jnp.square(jnp.diff(error, axis=2))) + jnp.mean(jnp.square(jnp.diff(error, axis=3)))
    kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance)
    loss = pixels + terms.motion * motion + terms.edges * edges + terms.kl * kl
    psnr = -10 * jnp.log10(jnp.mean(jnp.square(error)) / 4)
    return loss, {"loss": loss, "psnr": psnr, "motion": motion, "edges": edges, "kl": kl}
