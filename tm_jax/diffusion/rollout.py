"""The causal step: what streaming runs is what distillation rolls out (METHOD: figure 2, streaming).

One chunk of latent frames is denoised in a few steps.  At step s it attends to itself, to the first
chunk and to the previous chunk, through the K/V that those chunks wrote *at step s*: no clean
refresh pass, as many network evaluations as steps.  Because of that, a few parallel masked passes
over a whole clip equal the streamed rollout wherever RoPE positions are not pinned
(``clip_steps``), and training needs no sequential rollout with gradient.  With ``clean_kv`` a chunk
writes once more when it is clean, and every step reads that.

    chunk    0   1   2   3   4   5   6   7   8  …
    RoPE     0   3   6   9  12  15  18  18  18  …   previous chunk, once pinned: 15
"""

import math
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tm_jax.diffusion.clean_kv import chunks_of, clean_kv_velocity, whole_clip
from tm_jax.diffusion.flow import add_noise, clean_from_velocity
from tm_jax.diffusion.noise import slow_matrix
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.models.dit import ConditionCache, DiT
from tm_jax.nn.cache import KVCache, roll
from tm_jax.nn.masks import SparseCausal, positions
from tm_jax.types import Conditioning, Latents


@flax.struct.dataclass
class StreamState:
    """All that a stream remembers between chunks: constant in size, for ever."""

    chunk: Int[Array, ""]
    """Index of the chunk to come."""
    contexts: tuple[KVCache, ...]
    """Per denoising step, the K/V of the first and the previous chunk; one for all with ``clean_kv``."""


@flax.struct.dataclass
class Reference:
    """What a stream knows of its character: computed once per picture."""

    conditioning: Conditioning
    """Conditioning of the trained range; its ``condition`` is read by RoPE frame."""
    cache: ConditionCache
    """Cross-attention K/V of the text and image tokens."""


def make_reference(model: DiT, conditioning: Conditioning) -> Reference:
    """The reference of a stream, from the conditioning of a whole trained range of frames."""
    return Reference(conditioning, model.condition(conditioning))


def init_stream(model: DiT, config: RolloutConfig, reference: Reference) -> StreamState:
    """The state before the first chunk."""
    batch, _, height, width, _ = reference.conditioning.condition.shape
    empty = model.empty_cache(batch=batch, chunk=config.chunk, height=height, width=width)
    return StreamState(jnp.zeros((), jnp.int32), (empty,) * config.contexts)


def draw_noises(
    key: PRNGKeyArray, config: RolloutConfig, shape: tuple[int, int, int, int, int]
) -> Float[Array, "steps b f h w c"]:
    """Noise of the beginnings of streams, distributed as streaming draws it, from a key of JAX.

    Args:
        shape: of the latents, [b f h w c] in whole chunks.
    """
    noises = jax.random.normal(key, (config.steps, *shape))
    if not config.correlation:
        return noises
    batch, frames, *rest = shape
    weights = jnp.asarray(slow_matrix(frames // config.chunk))
    anchors = (batch, weights.shape[1], config.chunk, *rest)
    anchors = jax.random.normal(jax.random.fold_in(key, config.steps), anchors)
    slow = jnp.einsum("ka,ba...->bk...", weights, anchors).reshape(shape)
    fresh = math.sqrt(1 - config.correlation) * noises[0]
    return noises.at[0].set(fresh + math.sqrt(config.correlation) * slow)


def chunk_steps(
    model: DiT,
    config: RolloutConfig,
    reference: Reference,
    state: StreamState,
    noises: Float[Array, "steps b g h w c"],
    inputs: Conditioning,
) -> tuple[list[Latents], list[Latents], StreamState]:
    """Denoise one chunk; returns what each step was given and made of it, and the next state."""
    trained = model.config.trained_frames
    frames = positions(state.chunk, "current", chunk=config.chunk, trained_frames=trained)
    conditioning = inputs.replace(condition=jnp.take(reference.conditioning.condition, frames, axis=1))
    given, cleans, contexts = [], [], []
    evaluate = partial(model.chunk, positions=frames, condition_cache=reference.cache)
    remember = partial(roll, trained_frames=trained)
    for step, sigma in enumerate(config.sigmas):
        level = jnp.full(noises.shape[1:2], sigma, jnp.float32)
        noisy = noises[0] if step == 0 else add_noise(cleans[-1], noises[step], level)
        given.append(noisy)
        context = state.contexts[config.context_of(step)]
        v, written = evaluate(noisy, level, conditioning, context=context)
        cleans.append(clean_from_velocity(noisy, v, level))
        contexts.append(remember(context, written, state.chunk))
    if config.clean_kv:
        _, written = evaluate(cleans[-1], jnp.zeros_like(level), conditioning, context=context)
        contexts = [remember(context, written, state.chunk)]
    return given, cleans, StreamState(state.chunk + 1, tuple(contexts))


def generate_chunk(
    model: DiT,
    config: RolloutConfig,
    reference: Reference,
    state: StreamState,
    noises: Float[Array, "steps b g h w c"],
    inputs: Conditioning,
) -> tuple[Latents, StreamState]:
    """One chunk of clean latents [b g h w c], and the state that the next chunk starts from.

    Args:
        noises: standard normal noise of each step; the first is the chunk at σ = 1.
        inputs: the chunk's audio windows and mode; its ``condition`` is replaced by the reference's.
    """
    _, cleans, following = chunk_steps(model, config, reference, state, noises, inputs)
    return cleans[-1], following


def clip_steps(
    model: DiT,
    config: RolloutConfig,
    conditioning: Conditioning,
    noises: Float[Array, "steps b f h w c"],
    *,
    last: int | None = None,
) -> tuple[list[Latents], list[Latents]]:
    """A whole clip by one masked pass a step: what each step was given and made of it.

    Equals ``generate_chunk`` run chunk by chunk as long as no position is pinned; with ``clean_kv``, where no
    masked pass does, it is that.

    Args:
        last: the step to stop after; None makes all of them, and so does a stream.
    """
    if config.clean_kv:
        return _streamed_steps(model, config, conditioning, noises)
    noisy, given, cleans = noises[0], [], []
    for step, sigma in enumerate(config.sigmas if last is None else config.sigmas[: last + 1]):
        level = jnp.full(noisy.shape[:1], sigma, jnp.float32)
        noisy = add_noise(cleans[-1], noises[step], level) if cleans else noisy
        given.append(noisy)
        velocity = clip_velocity(model, config, noisy, level, conditioning, None)
        cleans.append(clean_from_velocity(noisy, velocity, level))
    return given, cleans


def clip_velocity(
    model: DiT,
    config: RolloutConfig,
    noisy: Latents,
    sigma: Float[Array, " b"],
    conditioning: Conditioning,
    history: Latents | None,
    *,
    chunk_indices: tuple[int, ...] | None = None,
    context: KVCache | None = None,
) -> Latents:
    """Velocities of a whole clip whose chunks read each other as they do in a stream: what is trained.

    ``chunk_indices`` and ``context`` are those of `DiT.__call__`.

    Args:
        history: the clean clip that its later chunks remember; read with ``clean_kv`` alone.
    """
    told = noisy, sigma, conditioning
    if config.clean_kv:
        return clean_kv_velocity(model, config, *told, history, chunk_indices=chunk_indices, context=context)
    places = None if chunk_indices is None else np.array(chunk_indices)
    return model(*told, pattern=SparseCausal(config.chunk), chunk_indices=places, context=context)


def _streamed_steps(
    model: DiT, config: RolloutConfig, conditioning: Conditioning, noises: Array
) -> tuple[list[Latents], list[Latents]]:
    """``clip_steps`` chunk by chunk."""
    reference, size = make_reference(model, conditioning), config.chunk

    def advance(state, inputs):
        noise, frames = inputs
        here = conditioning.replace(**frames)
        given, cleans, following = chunk_steps(model, config, reference, state, noise, here)
        return following, (given, cleans)

    split = partial(chunks_of, size=size)
    parts = jax.vmap(split, out_axes=1)(noises), jax.tree.map(split, conditioning.timed())
    _, made = jax.lax.scan(advance, init_stream(model, config, reference), parts)
    return jax.tree.map(whole_clip, made)
