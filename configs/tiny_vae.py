"""The tiny world's VAE: 128×128 puppets, stride (4, 16, 16), 24 latent channels.

    python train.py tiny_vae                     writes runs/tiny_vae/weights.safetensors

It starts as the best linear autoencoder of its shape (principal components).
"""

from tm_jax.models.vae import VAEConfig
from tm_jax.training.autoencoding import VaeExperiment
from tm_jax.training.loop import LoopConfig
from tm_jax.training.optim import OptimConfig

Z = 24
MODEL = VAEConfig(
    base_dim=96,
    decoder_base_dim=112,
    z_dim=Z,
    dim_mult=(1, 1, 1),
    num_res_blocks=0,
    temporal_downsample=(True, True),
    spatial_downsample=(False, False),
    patch_size=16,
    residual=True,
    linear_ends=True,
    latents_mean=(0.0,) * Z,
    latents_std=(1.0,) * Z,
)

PRESET = VaeExperiment(
    loop=LoopConfig(name="tiny_vae", steps=6000, batch_size=4, checkpoint_every=300, preview_every=600),
    model=MODEL,
    optim=OptimConfig(
        lr=1e-4,
        warmup_steps=200,
        schedule="cosine",
        decay_steps=5800,
        lr_end=5e-6,
        clip=1.0,
        betas=(0.9, 0.99),
    ),
    ema=0.99,
)
