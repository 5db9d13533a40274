"""wav2vec2 as a streaming front end: the sliding window of ``audio.sliding_window`` over the JAX encoder.

A window is normalised by itself, with 80 zeros appended, so that nothing after its end is read.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tm_jax.audio.sliding_window import SlidingWindow, WindowConfig
from tm_jax.models.wav2vec2 import Wav2Vec2, normalise
from tm_jax.rates import SAMPLES_PER_TOKEN


@jax.jit
def window_tokens(
    encoder: Wav2Vec2, sound: Float[Array, "b s"], skip: Int[Array, " b"]
) -> Float[Array, "b a d"]:
    """All tokens of windows of raw sound, each normalised by itself; the first ``skip`` hold no sound."""
    prepared = normalise(sound, skip, samples_per_token=encoder.config.samples_per_token)
    return encoder(jnp.pad(prepared, ((0, 0), (0, encoder.config.tail))), skip).astype(jnp.float32)


class Wav2Vec2FrontEnd(SlidingWindow):
    """The speech encoder behind the interface of ``audio.front_end.AudioFrontEnd``."""

    def __init__(self, encoder: Wav2Vec2, config: WindowConfig = WindowConfig()):
        if encoder.config.samples_per_token != SAMPLES_PER_TOKEN:
            given = encoder.config.samples_per_token
            raise ValueError(
                f"the encoder takes {given} samples a token where {SAMPLES_PER_TOKEN} are needed"
            )
        super().__init__(self._run, encoder.config.width, config)
        self.encoder = encoder

    def _run(self, windows: np.ndarray, skip: np.ndarray) -> np.ndarray:
        return np.asarray(window_tokens(self.encoder, jnp.asarray(windows), jnp.asarray(skip, jnp.int32)))
