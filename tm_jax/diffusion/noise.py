"""Noise for streaming: a counter-based generator that every backend shares.

A chunk's noise is an input of the model, not something it draws.  Philox's raw words are stable
across NumPy versions and platforms; the Box–Muller transform on them is computed in float64, so the
JAX and the PyTorch engine get the same numbers for the same (seed, chunk, step).
"""

import math

import numpy as np
from jaxtyping import Float


def stream_noise(seed: int, chunk: int, step: int, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """Standard normal float32 noise of one denoising step of one chunk."""
    count = math.prod(shape)
    pairs = (count + 1) // 2
    words = np.random.Philox(key=seed, counter=[0, 0, step, chunk]).random_raw(2 * pairs)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:pairs])), 2.0 * np.pi * uniform[pairs:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return normal[:count].astype(np.float32).reshape(shape)
