"""The three ways to get the clip of a student's update (paper: figure 2; METHOD §6).

The DMD loss needs the student's clean estimate of a clip at one of its noise levels.  What the student is
given there comes from

    own     its own rollout: parallel masked passes over fresh noise, as streaming would make the clip
    real    a clip of the data, noised; never at σ = 1, where the estimate is the conditional mean
    long    the end of a long stream with pinned positions, which parallel passes never reach

    own, real   | C0 | C1 | C2 | C3 | C4 | C5 | C6 |      chunk i reads {0, i-1, i}
    long        | C0 |  …  C_t-6 | C_t-5 | … | C_t |      the clip is C0 and the last six, at positions
                            └ K/V as streamed, without gradient ─► read by C_t-5    0-2, 18-20, 18-20 …
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tm_jax.diffusion.flow import add_noise, clean_from_velocity
from tm_jax.diffusion.rollout import chunk_steps, init_stream, make_reference, parallel_steps
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.models.dit import DiT
from tm_jax.nn.cache import KVCache
from tm_jax.nn.masks import SparseCausal, positions
from tm_jax.types import Conditioning, Latents


class StudentClip(NamedTuple):
    """A clip at the noise level where the student is to be improved."""

    noisy: Latents
    """What the student is given; carries no gradient."""
    conditioning: Conditioning
    """The clip's conditioning as teacher and critic read it."""
    estimate: Callable[[DiT, Latents], Latents]
    """The student's clean clip from ``noisy``: the pass that carries gradient."""


def masked_estimate(
    rollout: RolloutConfig,
    conditioning: Conditioning,
    sigma: float,
    chunk_indices: np.ndarray | None = None,
    context: KVCache | None = None,
) -> Callable[[DiT, Latents], Latents]:
    """The clean clip by one sparse causal pass; the last two as `DiT.__call__` takes them."""

    def estimate(student: DiT, noisy: Latents) -> Latents:
        level = jnp.full(noisy.shape[:1], sigma, jnp.float32)
        velocity = student(
            noisy,
            level,
            conditioning,
            pattern=SparseCausal(rollout.chunk),
            chunk_indices=chunk_indices,
            context=context,
        )
        return clean_from_velocity(noisy, velocity, level)

    return estimate


def rollout_clip(
    student: DiT, rollout: RolloutConfig, clip: dict, key: jax.Array
) -> tuple[list[Latents], Latents]:
    """The student's own clip from fresh noise: what each step was given, and the clean latents."""
    shape = (rollout.steps, *clip["latents"].shape)
    noises = jax.random.normal(key, shape, clip["latents"].dtype)
    return parallel_steps(student, rollout, Conditioning(**clip["conditioning"]), noises)


def own_clip(student: DiT, rollout: RolloutConfig, batch: dict, step: int, key: jax.Array) -> StudentClip:
    """The student's own rollout, stopped at denoising step ``step``."""
    noisy, _ = rollout_clip(student, rollout, batch["clip"], key)
    conditioning = Conditioning(**batch["clip"]["conditioning"])
    estimate = masked_estimate(rollout, conditioning, rollout.sigmas[step])
    return StudentClip(jax.lax.stop_gradient(noisy[step]), conditioning, estimate)


def real_clip(student: DiT, rollout: RolloutConfig, batch: dict, step: int, key: jax.Array) -> StudentClip:
    """A clip of the data at the noise level of denoising step ``step``."""
    clean = batch["clip"]["latents"]
    level = jnp.full(clean.shape[:1], rollout.sigmas[step], jnp.float32)
    noisy = add_noise(clean, jax.random.normal(key, clean.shape, clean.dtype), level)
    conditioning = Conditioning(**batch["clip"]["conditioning"])
    return StudentClip(noisy, conditioning, masked_estimate(rollout, conditioning, rollout.sigmas[step]))


def long_clip(student: DiT, rollout: RolloutConfig, batch: dict, step: int, key: jax.Array) -> StudentClip:
    """C₀ and the last chunks of a long stream, at the positions where they were streamed.

    The chunks are denoised again, with gradient, from what they were given; the first of the last ones reads
    the very K/V of its predecessor that the stream held, without gradient.  How long the stream is, the
    batch's conditioning says.
    """
    size, shape = rollout.chunk, batch["clip"]["latents"].shape
    stream = batch["stream"]["conditioning"]
    timed = {name: stream[name] for name in ("audio_tokens", "audio_keep", "mode")}
    count, last = timed["mode"].shape[1] // size, shape[1] // size - 1
    trained = stream["condition"].shape[1]
    start = Conditioning(**stream | {name: x[:, :trained] for name, x in timed.items()})
    reference = make_reference(student, start)
    noises = jax.random.normal(key, (count, rollout.steps, shape[0], size, *shape[2:]))
    chunked = lambda x: jnp.moveaxis(x.reshape(shape[0], count, size, *x.shape[2:]), 1, 0)

    def advance(state, inputs):
        noise, frames = inputs
        here = start.replace(condition=start.condition[:, :size], **frames)
        noisy, _, following = chunk_steps(student, rollout, reference, state, noise, here)
        return following, noisy[step]

    state = init_stream(student, rollout, reference)
    inputs = (noises, {name: chunked(x) for name, x in timed.items()})
    state, early = jax.lax.scan(advance, state, jax.tree.map(lambda x: x[:-last], inputs))
    context = state.contexts[step]
    _, late = jax.lax.scan(advance, state, jax.tree.map(lambda x: x[-last:], inputs))
    noisy = jnp.moveaxis(jnp.concatenate([early[:1], late]), 0, 1).reshape(shape)
    places = np.array([0, *range(count - last, count)])
    frames = positions(places, "current", chunk=size, trained_frames=trained).reshape(-1)
    cut = lambda x: jnp.concatenate([x[:, :size], x[:, -last * size :]], axis=1)
    conditioning = start.replace(**{name: cut(x) for name, x in timed.items()})
    pinned = conditioning.replace(condition=jnp.take(start.condition, frames, axis=1))
    estimate = masked_estimate(rollout, pinned, rollout.sigmas[step], places, context)
    return StudentClip(jax.lax.stop_gradient(noisy), conditioning, estimate)


CLIPS = {"own": own_clip, "real": real_clip, "long": long_clip}
"""By name: each takes the frozen student, the rollout, a batch, the denoising step and a key."""
