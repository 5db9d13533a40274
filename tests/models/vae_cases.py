"""Random configs, weights and clips for the VAE's tests, and the reference that they are compared with."""

import functools

import jax
import numpy as np
from flax import nnx

from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.names import paths, with_values

WAN21 = {"dim_mult": (1, 2, 4, 4), "temporal_downsample": (False, True, True)}
SHORT = {"dim_mult": (1, 2, 4), "temporal_downsample": (True, True)}
WAN22 = {"dim_mult": (1, 2, 2), "temporal_downsample": (True, True), "patch_size": 2, "residual": True}

TINY = {
    "dim_mult": (2, 2, 2, 2),
    "decoder_base_dim": 4,
    "decoder_dim_mult": (1, 1, 4, 4),
    "temporal_downsample": (False, True, True),
    "spatial_downsample": (True, False, False),
    "patch_size": 2,
    "residual": True,
    "linear_ends": True,
    "refine_blocks": 1,
    "refine_dim": 4,
}
"""A form of ours: the first stage halves the picture alone, the others time alone, a linear path leads from
pixels to latents and back, and a refiner follows the decoder."""


jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""Compiling is what these tests spend their time on; without optimisation it takes half as long."""


def config(rng: np.random.Generator, form: dict, *, base: int = 4, blocks: int = 1) -> VAEConfig:
    """A tiny config of this form whose latent width and statistics are drawn."""
    z_dim = int(rng.integers(2, 6))
    return VAEConfig(
        base_dim=base,
        z_dim=z_dim,
        num_res_blocks=blocks,
        latents_mean=tuple(rng.normal(size=z_dim).tolist()),
        latents_std=tuple(rng.uniform(0.5, 3, size=z_dim).tolist()),
        **form,
    )


def abstract(config: VAEConfig) -> VAE:
    """The model's shapes without a value."""
    return jax.eval_shape(lambda: VAE(config, rngs=nnx.Rngs(0)))


def build(config: VAEConfig, rng: np.random.Generator) -> VAE:
    """A model whose every parameter matters, drawn by NumPy: compiling the initialisers would take longer."""
    model = abstract(config)
    values = {}
    for path, variable in paths(model).items():
        if path.endswith("kernel"):
            value = rng.normal(size=variable.shape) / np.sqrt(np.prod(variable.shape[:-1]))
        else:
            value = 0.2 * rng.normal(size=variable.shape) + path.endswith("scale")
        values[path] = jax.numpy.asarray(value, variable.dtype)
    return with_values(model, values)


def reference(config: VAEConfig, **overrides):
    """diffusers' model of the same config."""
    from diffusers import AutoencoderKLWan

    channels = 3 * config.patch_size**2
    settings = {
        "base_dim": config.base_dim,
        "decoder_base_dim": config.decoder_base_dim,
        "z_dim": config.z_dim,
        "dim_mult": list(config.dim_mult),
        "num_res_blocks": config.num_res_blocks,
        "temperal_downsample": list(config.temporal_downsample),
        "is_residual": config.residual,
        "patch_size": None if config.patch_size == 1 else config.patch_size,
        "in_channels": channels,
        "out_channels": channels,
        "latents_mean": list(config.latents_mean),
        "latents_std": list(config.latents_std),
    }
    return AutoencoderKLWan(**settings | overrides).eval()
