"""The tiny world's VAE with a refiner: the decoding half goes on learning, the latents stay tiny_vae's.

    python train.py tiny_vae_refined     needs runs/tiny_vae; writes runs/tiny_vae_refined/weights.safetensors

The diffusion models train on tiny_vae's latents meanwhile, and stream through this decoder.
"""

import dataclasses
from pathlib import Path

from configs.tiny_vae import PRESET as FIRST
from tm_jax.training.optim import OptimConfig

PRESET = dataclasses.replace(
    FIRST,
    loop=dataclasses.replace(FIRST.loop, name="tiny_vae_refined", steps=2400),
    model=dataclasses.replace(FIRST.model, refine_blocks=3),
    loss=dataclasses.replace(FIRST.loss, mouth=5.0, strength=3.0, motion_strength=3.0),
    optim=OptimConfig(
        lr=7e-4,
        warmup_steps=30,
        schedule="cosine",
        decay_steps=2370,
        lr_end=1e-6,
        clip=1.0,
        betas=(0.9, 0.99),
        # The decoder stands at its optimum without the refiner; haste destroys it faster than it improves.
        slow=("decoder", "quant"),
        slow_factor=0.05,
    ),
    init_from=Path("runs/tiny_vae/weights.safetensors"),
    freeze_encoder=True,
)
