"""Whole clips of a student whose chunks read what earlier ones wrote when they were clean.

``RolloutConfig.clean_kv``: the habit of Self-Forcing and CausVid, here for the ablation.  A chunk cannot be
denoised before its predecessor is done, so no masked pass equals the stream, and a clip's chunks follow
each other.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.models.dit import DiT
from tm_jax.nn.cache import KVCache, roll
from tm_jax.nn.masks import positions
from tm_jax.types import Conditioning, Latents


def clean_kv_velocity(
    model: DiT,
    config: RolloutConfig,
    noisy: Latents,
    sigma: Float[Array, " b"],
    conditioning: Conditioning,
    history: Latents,
    *,
    chunk_indices: tuple[int, ...] | None = None,
    context: KVCache | None = None,
) -> Latents:
    """Velocities of a clip's chunks, each of which reads the clean chunks before it; float32.

    No gradient flows into what is read.  ``chunk_indices`` and ``context`` are those of `DiT.__call__`.

    Args:
        history: the clip as its later chunks remember it.
    """
    batch, frames, height, width, _ = noisy.shape
    size = config.chunk
    places = np.arange(frames // size) if chunk_indices is None else np.array(chunk_indices)
    frozen, cache = jax.lax.stop_gradient(model), model.condition(conditioning)
    past = jax.lax.stop_gradient(cache)
    trained = model.config.trained_frames

    def advance(context, inputs):
        place, noisy, clean, frames = inputs
        here = conditioning.replace(**frames)
        at = positions(place, "current", chunk=size, trained_frames=trained)
        read = partial(DiT.chunk, positions=at, context=context)
        found, _ = read(model, noisy, sigma, here, condition_cache=cache)
        _, written = read(frozen, clean, jnp.zeros_like(sigma), here, condition_cache=past)
        return jax.lax.stop_gradient(roll(context, written, place, trained_frames=trained)), found

    clips = noisy, jax.lax.stop_gradient(history), conditioning.timed()
    inputs = jnp.asarray(places), *jax.tree.map(lambda x: chunks_of(x, size), clips)
    empty = model.empty_cache(batch=batch, chunk=size, height=height, width=width)
    following, first = advance(empty, jax.tree.map(lambda x: x[0], inputs))
    _, rest = jax.lax.scan(
        advance, following if context is None else context, jax.tree.map(lambda x: x[1:], inputs)
    )
    return whole_clip(jnp.concatenate([first[None], rest]))


def chunks_of(clip: Array, size: int) -> Array:
    """[b f …] → [chunks b size …]."""
    return jnp.moveaxis(clip.reshape(clip.shape[0], -1, size, *clip.shape[2:]), 1, 0)


def whole_clip(chunks: Array) -> Array:
    """[chunks b size …] → [b f …]."""
    return jnp.moveaxis(chunks, 0, 1).reshape(chunks.shape[1], -1, *chunks.shape[3:])
