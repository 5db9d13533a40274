"""The smallest VAE and student that an engine can run: 16×16 pixels, latents of 2×2×4, random weights."""

import functools

import jax
from flax import nnx

from tm_jax.diffusion.flow import Schedule
from tm_jax.diffusion.rollout import RolloutConfig
from tm_jax.models.dit import DiT, DiTConfig
from tm_jax.models.vae import VAE, VAEConfig

VAE_CONFIG = VAEConfig(
    base_dim=8, z_dim=4, dim_mult=(1, 1, 1), num_res_blocks=1, temporal_downsample=(True, True), patch_size=2,
    residual=True, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4,
)  # fmt: skip
DIT_CONFIG = DiTConfig(
    width=32, ffn=32, heads=2, layers=2, patch=(1, 1, 1), in_channels=12, out_channels=4, text_width=4,
    text_length=2, image_width=4, image_length=4, audio_width=80, audio_dim=16, audio_lookahead=0,
    time_frequencies=16, dtype="float32", remat=False,
)  # fmt: skip
ROLLOUT = RolloutConfig(schedule=Schedule(shift=3.0))


def _stirred(module, key):
    """The module with noise on every parameter, so that what begins at zero matters too."""
    leaves, treedef = jax.tree.flatten(module)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        treedef, [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


@functools.cache
def models() -> tuple[VAE, DiT]:
    """The VAE and the student, the same ones at every call."""
    make = lambda kind, config, seed: jax.jit(
        lambda: _stirred(kind(config, rngs=nnx.Rngs(seed)), jax.random.key(seed))
    )()
    return make(VAE, VAE_CONFIG, 0), make(DiT, DIT_CONFIG, 1)
