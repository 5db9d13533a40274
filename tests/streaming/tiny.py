"""The smallest VAE and student that an engine can run: 16×16 pixels, latents of 2×2×4, random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tm_jax.diffusion.schedule import RolloutConfig, Schedule
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.weights import named_leaves

VAE_CONFIG = VAEConfig(
    base_dim=8, z_dim=4, dim_mult=(1, 1, 1), num_res_blocks=1, temporal_downsample=(True, True), patch_size=2,
    residual=True, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4,
)  # fmt: skip
DIT_CONFIG = DiTConfig(
    width=32, ffn=32, heads=2, layers=2, patch=(1, 1, 1), in_channels=12, out_channels=4, text_width=4,
    text_length=2, image_width=4, image_length=4, audio_width=80, audio_dim=16, audio_lookahead=0,
    time_frequencies=16, dtype="float32", remat="products",
)  # fmt: skip
ROLLOUT = RolloutConfig(schedule=Schedule(shift=3.0))


def _random(kind, config, seed: int):
    """A module with random parameters everywhere, so that what begins at zero matters too.

    Drawn by NumPy: compiling the initialisers costs more than all that is tested.
    """
    rng = np.random.default_rng(seed)
    names, leaves, treedef = named_leaves(jax.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        noise = rng.standard_normal(shape).astype(np.float32)
        if name.rsplit(".", 1)[-1] in ("kernel", "embedding"):
            return noise / np.sqrt(np.prod(shape[1 if name.startswith("blocks") else 0 : -1]))
        return 1 + 0.1 * noise if name.endswith(("scale", "gamma", "weight")) else 0.1 * noise

    values = [jnp.asarray(draw(name, leaf.shape)) for name, leaf in zip(names, leaves, strict=True)]
    return jax.tree.unflatten(treedef, values)


@functools.cache
def models() -> tuple[VAE, DiT]:
    """The VAE and the student, the same ones at every call."""
    return _random(VAE, VAE_CONFIG, 0), _random(DiT, DIT_CONFIG, 1)
