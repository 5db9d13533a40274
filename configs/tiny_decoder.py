"""The tiny world's decoder after the student: it learns to draw what the student makes.

    python train.py tiny_decoder         needs runs/tiny_vae_refined, runs/tiny_visemes, runs/tiny_student

Writes runs/tiny_decoder/weights.safetensors, the VAE that streams with that student.
"""

from pathlib import Path

from tm_jax.training.decoder_phase import DecoderExperiment
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig
from tm_jax.training.vae_phase import AutoencodingLoss

STEPS = 600

PRESET = DecoderExperiment(
    loop=LoopConfig(
        name="tiny_decoder",
        steps=STEPS,
        batch_size=1,
        checkpoint_every=100,
        preview_every=200,
        same=("vae", "student"),
    ),
    vae=Path("runs/tiny_vae_refined/weights.safetensors"),
    student=Path("runs/tiny_student/weights.safetensors"),
    visemes=Path("runs/tiny_visemes/weights.safetensors"),
    loss=AutoencodingLoss(mouth=5.0, motion=1.0, edges=0.5, strength=12.0, motion_strength=30.0),
    optim=OptimConfig(
        lr=4e-4,
        warmup_steps=10,
        schedule="cosine",
        decay_steps=STEPS - 10,
        lr_end=1e-6,
        clip=1.0,
        betas=(0.9, 0.99),
        # As in tiny_vae_refined: the refiner learns, the rest of the decoder follows.
        slow=("decoder", "quant"),
        slow_factor=0.1,
    ),
)
