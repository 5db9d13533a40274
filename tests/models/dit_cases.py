"""Random configs, weights and inputs for the transformer's tests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.pretrained.names import paths, with_values
from tm_jax.types import Conditioning

SMALL = DiTConfig(
    width=32,
    ffn=48,
    heads=2,
    layers=2,
    patch=(1, 1, 1),
    in_channels=14,
    out_channels=5,
    text_width=12,
    text_length=4,
    image_width=10,
    image_length=3,
    audio_width=7,
    audio_dim=16,
    audio_left=8,
    audio_lookahead=0,
    time_frequencies=16,
    dtype="float32",
    remat="products",
)
"""Five latent channels; every parameter small enough to differentiate in a test."""


def build(config: DiTConfig, seed: int = 0) -> DiT:
    """A model whose every parameter matters, the ones that start at zero or one included.

    Drawn by NumPy, because compiling the initialisers would take longer than most tests.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        near = 1.0 if "norm" in path and path.endswith("scale") else 0.0
        scale = 0.2 if leaf.ndim < 3 else leaf.shape[-2] ** -0.5
        return jnp.asarray(near + scale * rng.normal(size=leaf.shape), jnp.float32)

    model = abstract(config)
    return with_values(model, {path: draw(path, leaf) for path, leaf in paths(model).items()})


def initialised(config: DiTConfig, seed: int = 0) -> DiT:
    """A model as it starts, under the generator that compiles fastest."""
    with jax.default_prng_impl("unsafe_rbg"):
        return jax.jit(lambda: DiT(config, rngs=nnx.Rngs(seed)))()


def abstract(config: DiTConfig) -> DiT:
    """A model without numbers."""
    return jax.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0)))


def inputs(
    config: DiTConfig, rng: np.random.Generator, *, batch: int, frames: int, height: int, width: int
) -> tuple[jax.Array, jax.Array, Conditioning]:
    """Random noisy latents, noise levels and conditioning."""
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    conditioning = Conditioning(
        text_tokens=normal(batch, config.text_length, config.text_width),
        image_tokens=normal(batch, config.image_length, config.image_width),
        condition=normal(batch, frames, height, width, config.in_channels - config.out_channels),
        audio_tokens=normal(batch, frames, config.audio_slots, config.audio_width),
        audio_keep=jnp.ones((batch, frames)),
        face_mask=jnp.ones((batch, height, width)),
        mode=jnp.asarray(rng.integers(0, 2, (batch, frames)), jnp.int32),
    )
    sigma = jnp.asarray(rng.uniform(0.02, 1.0, batch), jnp.float32)
    return normal(batch, frames, height, width, config.out_channels), sigma, conditioning


def plain(config: DiTConfig) -> DiTConfig:
    """The same model without audio."""
    return dataclasses.replace(config, audio_dim=0)
