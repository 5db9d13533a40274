"""The tiny world's VAE: 128×128 puppets, stride (4, 8, 8) as in Wan2.1, 32 latent channels.

    python train.py tiny_vae                     writes runs/tiny_vae/weights.safetensors

It starts as the best linear autoencoder of its shape (principal components).
"""

from tm_jax.data.puppet_windows import WindowConfig
from tm_jax.models.vae_config import VAEConfig
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig
from tm_jax.training.vae_phase import AutoencodingLoss, VaeExperiment

Z = 32
MODEL = VAEConfig(
    base_dim=64,
    decoder_base_dim=80,
    z_dim=Z,
    dim_mult=(1, 1, 1),
    num_res_blocks=0,
    temporal_downsample=(True, True),
    spatial_downsample=(False, False),
    patch_size=8,
    residual=True,
    linear_ends=True,
    latents_mean=(0.0,) * Z,
    latents_std=(1.0,) * Z,
)

PRESET = VaeExperiment(
    loop=LoopConfig(name="tiny_vae", steps=3200, batch_size=2, checkpoint_every=400, preview_every=400),
    model=MODEL,
    windows=WindowConfig(frames=9),
    loss=AutoencodingLoss(motion=1.0, edges=0.5),
    optim=OptimConfig(
        lr=6e-4,
        warmup_steps=200,
        schedule="cosine",
        decay_steps=3000,
        lr_end=1e-6,
        clip=1.0,
        betas=(0.9, 0.99),
        # The path of the principal components starts at its optimum and has nothing to gain from haste.
        slow=("conv_in", "conv_out", "time_conv", "quant"),
        slow_factor=0.1,
    ),
    ema=0.998,
    # Principal components differ in size by a factor of 20; a teacher on evened ones wastes itself on detail.
    evenness=0.5,
)
