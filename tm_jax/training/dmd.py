"""Distribution matching distillation: losses of the student and of its critic (METHOD §6).

The student's clean estimate x̂ of a clip is noised again to a level τ that all its chunks share; the
teacher (with guidance) and the critic each estimate the clean clip from there, and the difference of
the two estimates is the direction in which x̂ moves towards the teacher's distribution.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tm_jax.diffusion.flow import clean_from_velocity, sample_sigma
from tm_jax.diffusion.rollout import clip_velocity
from tm_jax.diffusion.sampler import Guidance, guided_velocity
from tm_jax.diffusion.schedule import RolloutConfig, Schedule
from tm_jax.models.dit import DiT
from tm_jax.nn.masks import Bidirectional
from tm_jax.training.flow_matching import NoisedClip, velocity_loss, weighted_mean_square
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


def draw_gap(estimate: Latents, key: PRNGKeyArray, terms: DistillationLoss) -> tuple[Latents, Array]:
    """Noise and a fresh τ for each clip: where the two scores, or the critic, are asked."""
    level_key, noise_key = jax.random.split(key)
    sigma = terms.level(level_key, estimate.shape[0])
    return jax.random.normal(noise_key, estimate.shape, estimate.dtype), sigma


def score_gap(teacher: DiT, critic: DiT, clip: NoisedClip, terms: DistillationLoss) -> Latents:
    """The normalised difference g of the critic's and the teacher's clean estimates, nan-free.

    Args:
        clip: the student's clean clip x̂, noised to τ.
    """
    noisy, sigma, conditioning = clip.noisy, clip.sigma, clip.conditioning
    guided = guided_velocity(teacher, conditioning, terms.guidance, pattern=Bidirectional())
    real = clean_from_velocity(noisy, guided(noisy, sigma), sigma)
    fake = clean_from_velocity(noisy, critic(noisy, sigma, conditioning, pattern=Bidirectional()), sigma)
    distance = jnp.mean(jnp.abs(clip.clean - real), axis=(1, 2, 3, 4), keepdims=True)
    return jnp.nan_to_num((fake - real) / distance, nan=0.0, posinf=0.0, neginf=0.0)


def distribution_matching_loss(
    estimate: Latents, gap: Latents, conditioning: Conditioning, terms: DistillationLoss
) -> Float[Array, ""]:
    """½ mean w‖x̂ − stop(x̂ − g)‖², whose gradient with respect to x̂ is w g divided by its size."""
    target = jax.lax.stop_gradient(estimate - gap)
    return 0.5 * terms.weigh(estimate - target, conditioning)


def critic_loss(critic: DiT, clip: NoisedClip, terms: DistillationLoss) -> Float[Array, ""]:
    """Flow matching of the critic on the student's clips, noised to a fresh τ."""
    predicted = critic(clip.noisy, clip.sigma, clip.conditioning, pattern=Bidirectional())
    return velocity_loss(predicted, clip, face=terms.face, mouth=terms.mouth, low=terms.low)


def regression_clips(
    rollout: RolloutConfig,
    pair: tuple[Latents, Latents, Conditioning],
    real: tuple[Latents, Conditioning],
    key: PRNGKeyArray,
) -> tuple[NoisedClip, ...]:
    """What the student regresses to at each of its noise levels.

    Args:
        pair: (noise, the teacher's sample from it, conditioning): the target at σ = 1, where a real clip
            would teach the conditional mean, which is blur.
        real: (clean clip, conditioning): the target at every later level.
    """
    noise, sampled, pair_conditioning = pair
    clean, conditioning = real
    clips = [NoisedClip(sampled, noise, jnp.ones(noise.shape[:1], jnp.float32), pair_conditioning)]
    for step, sigma in enumerate(rollout.sigmas[1:]):
        fresh = jax.random.normal(jax.random.fold_in(key, step), clean.shape, clean.dtype)
        level = jnp.full(clean.shape[:1], sigma, jnp.float32)
        clips.append(NoisedClip(clean, fresh, level, conditioning))
    return tuple(clips)


def regression_loss(
    student: DiT, clip: NoisedClip, rollout: RolloutConfig, terms: DistillationLoss
) -> Float[Array, ""]:
    """Velocity error of the student at one of its noise levels, under its own mask."""
    predicted = clip_velocity(student, rollout, clip.noisy, clip.sigma, clip.conditioning, clip.clean)
    return velocity_loss(predicted, clip, face=terms.face, mouth=terms.mouth, low=0.0)
