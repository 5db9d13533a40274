"""The three ways to get the clip of a student's update (paper: figure 2; METHOD §6).

The DMD loss needs the student's clean estimate of a clip at one of its noise levels.  What the student is
given there carries no gradient, so that making it is a program of its own; it comes from

    own     its own rollout: parallel masked passes over fresh noise, as streaming would make the clip
    real    a clip of the data, noised; never at σ = 1, where the estimate is the conditional mean
    long    the end of a long stream with pinned positions, which parallel passes never reach

    own, real   | C0 | C1 | C2 | C3 | C4 | C5 | C6 |      chunk i reads {0, i-1, i}
    long        | C0 |  …  C_t-6 | C_t-5 | … | C_t |      the clip is C0 and the last six, at positions
                            └ K/V as streamed, without gradient ─► read by C_t-5    0-2, 18-20, 18-20 …
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from tm_jax.diffusion.clean_kv import chunks_of, whole_clip
from tm_jax.diffusion.flow import add_noise, clean_from_velocity
from tm_jax.diffusion.rollout import (
    chunk_steps,
    clip_steps,
    clip_velocity,
    draw_noises,
    init_stream,
    make_reference,
)
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.models.dit import DiT
from tm_jax.nn.masks import positions
from tm_jax.sharding import AnyMesh, ShardingRules, array_sharding
from tm_jax.training.abstract import with_shardings
from tm_jax.training.accumulate import WHOLE, in_parts
from tm_jax.types import Conditioning, Latents

CONTEXT_AXES = [1, 1, WHOLE, WHOLE]
"""Batch axes of a KVCache's leaves."""


@flax.struct.dataclass
class StudentClip:
    """A clip at the noise level where the student is to be improved.

    (Array fields are not annotated by shape: trees of shapes are made of this class too.)
    """

    noisy: Any
    """[b f h w c]: what the student is given."""
    clean: Any
    """What it makes of it now, like ``noisy``."""
    sigma: Any
    """[b], the noise level."""
    conditioning: Any
    """Members of the clip's Conditioning, as teacher and critic read it."""
    history: Any = None
    """What its later chunks remember of it, like ``noisy``, where they read clean keys and values."""
    context: Any = None
    """The K/V of the chunk before the second one, as a long stream held them; None for a whole clip."""
    places: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)
    """The places of the clip's chunks in the long stream."""

    def batch_axes(self) -> list[int]:
        """The batch axis of every leaf, in order."""
        rest = [0] * len(jax.tree.leaves(self.replace(context=None)))
        return rest if self.context is None else rest + CONTEXT_AXES


def clip_shardings(clip: StudentClip, mesh: AnyMesh, rules: ShardingRules) -> list[NamedSharding]:
    """The sharding of every leaf of a clip, in order."""
    names = {0: ("batch",), 1: (None, "batch", None, "whole_heads"), WHOLE: ()}
    return [
        array_sharding(leaf.shape, names[axis], mesh, rules)
        for leaf, axis in zip(jax.tree.leaves(clip), clip.batch_axes(), strict=True)
    ]


def abstract_clip(draw: Callable, arguments: tuple, mesh: AnyMesh, rules: ShardingRules) -> StudentClip:
    """Shapes and shardings of what a program that draws a clip gives."""
    clip = jax.eval_shape(draw, *arguments)
    leaves, treedef = jax.tree.flatten(clip)
    return treedef.unflatten(with_shardings(leaves, clip_shardings(clip, mesh, rules)))


def keep_clip(clip: StudentClip, rules: ShardingRules) -> StudentClip:
    """The clip where ``clip_shardings`` says, for use inside jit; the same on one device."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return clip
    leaves, treedef = jax.tree.flatten(clip)
    return treedef.unflatten(jax.lax.with_sharding_constraint(leaves, clip_shardings(clip, mesh, rules)))


def estimate(student: DiT, rollout: RolloutConfig, clip: StudentClip) -> Latents:
    """The student's clean clip by one sparse causal pass: the one that carries gradient."""
    conditioning = Conditioning(**clip.conditioning)
    if clip.places is not None:
        places = np.array(clip.places)
        trained = conditioning.condition.shape[1]
        frames = positions(places, "current", chunk=rollout.chunk, trained_frames=trained).reshape(-1)
        conditioning = conditioning.replace(condition=jnp.take(conditioning.condition, frames, axis=1))
    velocity = clip_velocity(
        student,
        rollout,
        clip.noisy,
        clip.sigma,
        conditioning,
        clip.history,
        chunk_indices=clip.places,
        context=clip.context,
    )
    return clean_from_velocity(clip.noisy, velocity, clip.sigma)


def own_clip(
    student: DiT, rollout: RolloutConfig, batch: dict, step: int, key: jax.Array, *, parts: int = 1
) -> StudentClip:
    """The student's own rollout from fresh noise, stopped at denoising step ``step``."""
    latents = batch["clip"]["latents"]
    noises = draw_noises(key, rollout, latents.shape)

    def make(part: tuple) -> StudentClip:
        noises, conditioning = jnp.moveaxis(part[0], 1, 0), Conditioning(**part[1])
        noisy, cleans = clip_steps(student, rollout, conditioning, noises, last=step)
        level = jnp.full(cleans[step].shape[:1], rollout.sigmas[step], jnp.float32)
        return StudentClip(noisy[step], cleans[step], level, part[1], remembered(rollout, cleans[-1]))

    inputs = jnp.moveaxis(noises, 0, 1), batch["clip"]["conditioning"]
    return in_parts(make, inputs, parts, StudentClip.batch_axes)


def real_clip(
    student: DiT, rollout: RolloutConfig, batch: dict, step: int, key: jax.Array, *, parts: int = 1
) -> StudentClip:
    """A clip of the data at the noise level of denoising step ``step``."""
    real = batch["clip"]["latents"]

    def make(part: tuple) -> StudentClip:
        real, noise, conditioning = part
        level = jnp.full(real.shape[:1], rollout.sigmas[step], jnp.float32)
        noisy = add_noise(real, noise, level)
        clip = StudentClip(noisy, None, level, conditioning, remembered(rollout, real))
        return clip.replace(clean=estimate(student, rollout, clip))

    inputs = real, jax.random.normal(key, real.shape, real.dtype), batch["clip"]["conditioning"]
    return in_parts(make, inputs, parts, StudentClip.batch_axes)


def long_clip(
    student: DiT, rollout: RolloutConfig, batch: dict, step: int, key: jax.Array, *, parts: int = 1
) -> StudentClip:
    """C₀ and the last chunks of a long stream, at the positions where they were streamed.

    The chunks are denoised again, with gradient, from what they were given; the first of the last ones reads
    the very K/V of its predecessor that the stream held, without gradient.  How long the stream is, the
    batch's conditioning says.
    """
    size, shape = rollout.chunk, batch["clip"]["latents"].shape
    stream = batch["stream"]["conditioning"]
    count, last = stream["mode"].shape[1] // size, shape[1] // size - 1
    noises = draw_noises(key, rollout, (shape[0], count * size, *shape[2:]))
    noises = noises.reshape(*noises.shape[:2], count, size, *shape[2:])

    def make(part: tuple) -> StudentClip:
        noises, stream = part
        timed = {name: stream[name] for name in ("audio_tokens", "audio_keep", "mode")}
        trained, batch = stream["condition"].shape[1], stream["mode"].shape[0]
        start = Conditioning(**stream | {name: x[:, :trained] for name, x in timed.items()})
        reference = make_reference(student, start)

        def advance(state, inputs):
            noise, frames = inputs
            here = start.replace(condition=start.condition[:, :size], **frames)
            noisy, cleans, following = chunk_steps(student, rollout, reference, state, noise, here)
            return following, (noisy[step], cleans[step], remembered(rollout, cleans[-1]))

        state = init_stream(student, rollout, reference)
        inputs = (jnp.moveaxis(noises, 0, 2), {name: chunks_of(x, size) for name, x in timed.items()})
        state, early = jax.lax.scan(advance, state, jax.tree.map(lambda x: x[:-last], inputs))
        context = state.contexts[rollout.context_of(step)]
        _, late = jax.lax.scan(advance, state, jax.tree.map(lambda x: x[-last:], inputs))
        noisy, clean, history = jax.tree.map(
            lambda a, b: whole_clip(jnp.concatenate([a[:1], b])), early, late
        )
        cut = lambda x: jnp.concatenate([x[:, :size], x[:, -last * size :]], axis=1)
        conditioning = stream | {name: cut(x) for name, x in timed.items()}
        level = jnp.full((batch,), rollout.sigmas[step], jnp.float32)
        places = (0, *range(count - last, count))
        return StudentClip(noisy, clean, level, conditioning, history, context, places)

    return in_parts(make, (jnp.moveaxis(noises, (1, 2), (0, 1)), stream), parts, StudentClip.batch_axes)


def remembered(rollout: RolloutConfig, clean: Latents) -> Latents | None:
    """What of a clip's end a clip keeps for its chunks to remember."""
    return clean if rollout.clean_kv else None


CLIPS = {"own": own_clip, "real": real_clip, "long": long_clip}
"""By name: each takes the frozen student, the rollout, a batch, the denoising step and a key."""
