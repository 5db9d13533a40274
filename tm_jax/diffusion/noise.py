"""Noise for streaming: a counter-based generator that every backend shares.

A chunk's noise is an input of the model, not something it draws.  Philox's raw words are stable
across NumPy versions and platforms; the Box–Muller transform on them is computed in float64, so the
JAX and the PyTorch engine get the same numbers for the same (seed, chunk, step).

Fresh noise at σ = 1 in every chunk chooses anew all that the sound leaves open, and the picture jumps.
``RolloutConfig.correlation`` ρ gives that noise a slow part, which turns from one anchor to the next:

    chunk        0 … 15              16 … 31
    slow part    anchor 0 ─► 1       anchor 1 ─► 2          cos·anchor + sin·next
    noise        √(1−ρ)·fresh + √ρ·slow

Any chunk's noise is standard normal and known from three draws, and nothing lasts for ever.
"""

import math

import numpy as np
from jaxtyping import Float

from tm_jax.diffusion.schedule import RolloutConfig

TURN = 16
"""Chunks in which the slow part turns from one anchor to the next."""
_ANCHORS = 2**32
"""The step under which anchors are drawn: no denoising step has that number."""


def stream_noise(seed: int, chunk: int, step: int, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """Standard normal float32 noise of one denoising step of one chunk."""
    count = math.prod(shape)
    pairs = (count + 1) // 2
    words = np.random.Philox(key=seed, counter=[0, 0, step, chunk]).random_raw(2 * pairs)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:pairs])), 2.0 * np.pi * uniform[pairs:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return normal[:count].astype(np.float32).reshape(shape)


def slow_weights(chunk: int) -> tuple[int, float, float]:
    """Number of the anchor that a chunk has behind it, its weight, and the weight of the one ahead."""
    anchor, place = divmod(chunk, TURN)
    angle = 0.5 * math.pi * place / TURN
    return anchor, math.cos(angle), math.sin(angle)


def slow_matrix(chunks: int) -> Float[np.ndarray, "{chunks} anchors"]:
    """The weight of every anchor in each of a stream's first chunks."""
    weights = np.zeros((chunks, (chunks - 1) // TURN + 2), np.float32)
    for chunk in range(chunks):
        anchor, behind, ahead = slow_weights(chunk)
        weights[chunk, anchor : anchor + 2] = behind, ahead
    return weights


def chunk_noises(
    seed: int, chunk: int, shape: tuple[int, ...], config: RolloutConfig
) -> Float[np.ndarray, "steps ..."]:
    """The noise of every denoising step of one chunk of a stream."""
    noises = np.stack([stream_noise(seed, chunk, step, shape) for step in range(config.steps)])
    if config.correlation:
        anchor, behind, ahead = slow_weights(chunk)
        slow = behind * stream_noise(seed, anchor, _ANCHORS, shape)
        slow += ahead * stream_noise(seed, anchor + 1, _ANCHORS, shape)
        noises[0] *= math.sqrt(1 - config.correlation)
        noises[0] += math.sqrt(config.correlation) * slow
    return noises


def clip_noises(
    seed: int, chunks: int, shape: tuple[int, ...], config: RolloutConfig
) -> Float[np.ndarray, "steps frames ..."]:
    """The noise of every denoising step of a stream's first chunks, each of shape [frames of a chunk, …]."""
    return np.concatenate([chunk_noises(seed, chunk, shape, config) for chunk in range(chunks)], axis=1)
