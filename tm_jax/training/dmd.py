"""Distribution matching distillation: losses of the student and of its critic (METHOD §6).

The student's clean estimate x̂ of a clip is noised again to a level τ that all its chunks share; the
teacher (with guidance) and the critic each estimate the clean clip from there, and the difference of
the two estimates is the direction in which x̂ moves towards the teacher's distribution.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tm_jax.diffusion.flow import add_noise, clean_from_velocity, sample_sigma, velocity
from tm_jax.diffusion.sampler import Guidance, guided_velocity
from tm_jax.diffusion.schedule import RolloutConfig, Schedule
from tm_jax.models.dit import DiT
from tm_jax.nn.masks import Bidirectional, SparseCausal
from tm_jax.training.flow_matching import level_weight, weighted_mean_square
from tm_jax.types import Conditioning, Latents


@dataclasses.dataclass(frozen=True)
class DistillationLoss:
    """Weights and noise levels of distillation; the paper leaves all of them open."""

    dmd: float = 1.0
    """Weight of the distribution matching term."""
    regression: float = 0.25
    """Weight of the regression term beside it; the warm-up trains on regression alone."""
    guidance: Guidance = Guidance(audio=2.0)
    """The teacher's guidance, distilled into the student, which runs without."""
    schedule: Schedule = Schedule()
    """Shift of the level τ at which the scores are compared."""
    lowest: float = 0.02
    """τ is clamped to [lowest, 1 − lowest]."""
    face: float = 1.0
    """Weight of latent cells inside the face mask, in every term; cells outside weigh 1."""
    mouth: float | None = None
    """Weight of the cells where the mouth is; None for the face's."""
    low: float = 0.0
    """Noise level below which the critic's errors count as those of the clean latent do; 0 for none."""

    def level(self, key: PRNGKeyArray, batch: int) -> Float[Array, " {batch}"]:
        """A fresh τ for each clip."""
        return jnp.clip(sample_sigma(self.schedule, key, batch), self.lowest, 1 - self.lowest)

    def weigh(self, error: Latents, conditioning: Conditioning) -> Float[Array, ""]:
        """Mean of the squared error, each cell by its weight."""
        return weighted_mean_square(error, conditioning.face_mask, self.face, self.mouth)


def score_gap(
    estimate: Latents,
    teacher: DiT,
    critic: DiT,
    conditioning: Conditioning,
    key: PRNGKeyArray,
    terms: DistillationLoss,
) -> Latents:
    """The normalised difference g of the critic's and the teacher's clean estimates, nan-free.

    Args:
        estimate: the student's clean clip x̂ [b f h w c].
    """
    level_key, noise_key = jax.random.split(key)
    sigma = terms.level(level_key, estimate.shape[0])
    noisy = add_noise(estimate, jax.random.normal(noise_key, estimate.shape, estimate.dtype), sigma)
    guided = guided_velocity(teacher, conditioning, terms.guidance, pattern=Bidirectional())
    real = clean_from_velocity(noisy, guided(noisy, sigma), sigma)
    fake = clean_from_velocity(noisy, critic(noisy, sigma, conditioning, pattern=Bidirectional()), sigma)
    distance = jnp.mean(jnp.abs(estimate - real), axis=(1, 2, 3, 4), keepdims=True)
    return jnp.nan_to_num((fake - real) / distance, nan=0.0, posinf=0.0, neginf=0.0)


def distribution_matching_loss(
    estimate: Latents, gap: Latents, conditioning: Conditioning, terms: DistillationLoss
) -> Float[Array, ""]:
    """½ mean w‖x̂ − stop(x̂ − g)‖², whose gradient with respect to x̂ is w g divided by its size."""
    target = jax.lax.stop_gradient(estimate - gap)
    return 0.5 * terms.weigh(estimate - target, conditioning)


def critic_loss(
    critic: DiT, estimate: Latents, conditioning: Conditioning, key: PRNGKeyArray, terms: DistillationLoss
) -> Float[Array, ""]:
    """Flow matching of the critic on the student's clips, at a fresh τ and ε."""
    level_key, noise_key = jax.random.split(key)
    estimate = jax.lax.stop_gradient(estimate)
    sigma = terms.level(level_key, estimate.shape[0])
    noise = jax.random.normal(noise_key, estimate.shape, estimate.dtype)
    predicted = critic(add_noise(estimate, noise, sigma), sigma, conditioning, pattern=Bidirectional())
    error = level_weight(sigma, terms.low) * (predicted - velocity(estimate, noise))
    return terms.weigh(error, conditioning)


def regression_loss(
    student: DiT,
    rollout: RolloutConfig,
    pair: tuple[Latents, Latents, Conditioning],
    real: tuple[Latents, Conditioning],
    key: PRNGKeyArray,
    terms: DistillationLoss,
) -> Float[Array, ""]:
    """Velocity error of the student at each of its noise levels, under its own mask.

    Args:
        pair: (noise, the teacher's sample from it, conditioning): the target at σ = 1, where a real clip
            would teach the conditional mean, which is blur.
        real: (clean clip, conditioning): the target at every later level.
    """
    noise, sampled, pair_conditioning = pair
    clean, real_conditioning = real
    pattern = SparseCausal(rollout.chunk)
    level = jnp.ones(noise.shape[:1], jnp.float32)
    predicted = student(noise, level, pair_conditioning, pattern=pattern)
    loss = terms.weigh(predicted - velocity(sampled, noise), pair_conditioning)
    for step, sigma in enumerate(rollout.sigmas[1:]):
        level = jnp.full(clean.shape[:1], sigma, jnp.float32)
        fresh = jax.random.normal(jax.random.fold_in(key, step), clean.shape, clean.dtype)
        predicted = student(add_noise(clean, fresh, level), level, real_conditioning, pattern=pattern)
        loss += terms.weigh(predicted - velocity(clean, fresh), real_conditioning)
    return loss / rollout.steps
