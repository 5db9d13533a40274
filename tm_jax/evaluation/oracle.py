"""The oracle: a network that is *told* the opening while it learns to hear it.

A supervised regressor from log-mel windows to the true opening, trained on the training voices.  It draws
nothing, so its correlation on held-out voices is what the sound itself gives away: the ceiling of lip-sync
for a model that must also draw a face, above all on languages that neither has heard.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Float32

from tm_jax.audio.log_mel import LogMel

TOKENS_PER_FRAME = 2


@dataclasses.dataclass(frozen=True)
class OracleConfig:
    """What the oracle hears and how it learns."""

    left: int = 12
    """Tokens (20 ms) before the frame's own two."""
    right: int = 3
    """Tokens after them: the mean of what a latent frame's window gives its four pixel frames."""
    hidden: int = 128
    """Width of the two hidden layers."""
    steps: int = 1500
    """Updates."""
    batch_size: int = 512
    """Frames in a batch."""
    learning_rate: float = 2e-3
    """Peak, decaying to zero by a cosine."""
    noise: float = 0.2
    """Noise on the standardised input while training."""

    @property
    def window(self) -> int:
        """Tokens in a window."""
        return self.left + TOKENS_PER_FRAME + self.right


@flax.struct.dataclass
class Oracle:
    """A trained oracle with the scale of its input and output."""

    layers: nnx.Module
    mean: Float[Array, " inputs"]
    std: Float[Array, " inputs"]


class _Layers(nnx.Module):
    def __init__(self, inputs: int, hidden: int, *, rngs: nnx.Rngs):
        self.first = nnx.Linear(inputs, hidden, rngs=rngs)
        self.second = nnx.Linear(hidden, hidden, rngs=rngs)
        self.last = nnx.Linear(hidden, 1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.last(nnx.gelu(self.second(nnx.gelu(self.first(x)))))[:, 0]


def windows(audio: Float[np.ndarray, " s"], frames: int, config: OracleConfig) -> Float32[np.ndarray, "t i"]:
    """The tokens round each video frame, flattened; silence beyond both ends."""
    tokens = LogMel().tokens(audio)[: TOKENS_PER_FRAME * frames]
    missing = max(0, TOKENS_PER_FRAME * frames - len(tokens))
    padded = np.pad(tokens, ((config.left, missing + config.right), (0, 0)))
    cut = np.lib.stride_tricks.sliding_window_view(padded, config.window, axis=0)[::TOKENS_PER_FRAME]
    return np.ascontiguousarray(cut[:frames].reshape(frames, -1))


def train_oracle(
    sounds: list[np.ndarray], openings: list[np.ndarray], config: OracleConfig = OracleConfig(), seed: int = 0
) -> Oracle:
    """Train on sounds [s] at 16 kHz and their openings [t] at 25 fps."""
    tokens = np.concatenate(
        [windows(sound, len(opening), config) for sound, opening in zip(sounds, openings, strict=True)]
    )
    targets = np.concatenate(openings).astype(np.float32)
    mean, std = tokens.mean(0), tokens.std(0) + 1e-3
    layers = jax.jit(lambda: _Layers(tokens.shape[1], config.hidden, rngs=nnx.Rngs(seed)))()
    tx = optax.adamw(optax.cosine_decay_schedule(config.learning_rate, config.steps), weight_decay=1e-2)

    @jax.jit
    def step(layers, moments, inputs, targets, key):
        inputs = inputs + config.noise * jax.random.normal(key, inputs.shape)
        loss = lambda network: jnp.mean(jnp.square(network(inputs) - targets))
        updates, moments = tx.update(jax.grad(loss)(layers), moments, layers)
        return optax.apply_updates(layers, updates), moments

    moments = jax.jit(tx.init)(layers)
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    for index in range(config.steps):
        chosen = rng.integers(0, len(tokens), config.batch_size)
        inputs = (tokens[chosen] - mean) / std
        layers, moments = step(layers, moments, inputs, targets[chosen], jax.random.fold_in(key, index))
    return Oracle(layers=layers, mean=jnp.asarray(mean), std=jnp.asarray(std))


@jax.jit
def _hear(oracle: Oracle, inputs: Array) -> Array:
    return oracle.layers((inputs - oracle.mean[None]) / oracle.std[None])


def predict(
    oracle: Oracle, audio: Float[np.ndarray, "n s"], frames: int, config: OracleConfig = OracleConfig()
) -> Float[np.ndarray, "n t"]:
    """The openings that the oracle hears in n sounds of equal length."""
    return np.stack([np.asarray(_hear(oracle, windows(sound, frames, config))) for sound in audio])
