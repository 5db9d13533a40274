"""The tiny world's VAE: 128×128 puppets, stride (4, 32, 32), 64 latent channels.

python train.py tiny_vae                     writes runs/tiny_vae/weights.safetensors
"""

from tm_jax.models.vae import VAEConfig
from tm_jax.training.autoencoding import VaeExperiment
from tm_jax.training.loop import LoopConfig
from tm_jax.training.optim import OptimConfig

MODEL = VAEConfig(
    base_dim=32,
    decoder_base_dim=64,
    z_dim=64,
    dim_mult=(1, 2, 2),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    patch_size=8,
    residual=True,
    latents_mean=(0.0,) * 64,
    latents_std=(1.0,) * 64,
)

PRESET = VaeExperiment(
    loop=LoopConfig(name="tiny_vae", steps=1000, batch_size=4, checkpoint_every=250, preview_every=250),
    model=MODEL,
    optim=OptimConfig(
        name="muon", lr=2e-3, warmup_steps=20, schedule="cosine", decay_steps=980, lr_end=5e-5, clip=1.0
    ),
    ema=0.995,
)
