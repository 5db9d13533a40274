"""Tiny models at 32×32: what they draw is noise, but every part of the evaluation runs on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tm_jax.evaluation.reader import Reader, ReaderConfig
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig

SIZE = 32
READER = ReaderConfig(size=16, channels=(4, 6, 8), hidden=8, identity=6, traits=4)
VAE_CONFIG = VAEConfig(
    base_dim=4, z_dim=4, dim_mult=(1, 2, 2), num_res_blocks=1, temporal_downsample=(True, True), patch_size=2,
    latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4,
)  # fmt: skip
DIT = DiTConfig(
    width=16, ffn=16, heads=2, layers=1, patch=(1, 2, 2), in_channels=12, out_channels=4, text_width=4,
    text_length=2, image_width=4, image_length=16, audio_width=80, audio_dim=8, audio_lookahead=0,
    time_frequencies=8, dtype="float32", remat="products",
)  # fmt: skip


def filled(make, seed):
    """A module with random parameters, without compiling any initialiser."""
    leaves, treedef = jax.tree.flatten(jax.eval_shape(make))
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(
        treedef, [jnp.asarray(0.1 * rng.normal(size=x.shape), jnp.float32) for x in leaves]
    )


@pytest.fixture(scope="session")
def tiny_reader():
    return filled(lambda: Reader(READER, rngs=nnx.Rngs(0)), 0)


@pytest.fixture(scope="session")
def tiny_vae():
    return filled(lambda: VAE(VAE_CONFIG, rngs=nnx.Rngs(0)), 1)


@pytest.fixture(scope="session")
def tiny_dit():
    return filled(lambda: DiT(DIT, rngs=nnx.Rngs(0)), 2)
