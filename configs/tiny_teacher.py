"""The tiny world's teacher: a bidirectional, audio-conditioned DiT on the latents of tiny_vae.

    python train.py tiny_teacher         needs runs/tiny_vae, runs/tiny_visemes and runs/tiny_base;
                                         writes runs/tiny_teacher/weights.safetensors

It goes on from tiny_base, which has learnt to draw, and learns to hear afresh, through the viseme encoder.
"""

import dataclasses
from pathlib import Path

from configs.tiny_base import CLIP, SCHEDULE, VIDEOS
from configs.tiny_base import PRESET as BASE
from tm_jax.models.visemes import VisemeConfig
from tm_jax.training.optim import OptimConfig

MODEL = dataclasses.replace(BASE.model, audio_width=VisemeConfig().outputs)

PRESET = dataclasses.replace(
    BASE,
    loop=dataclasses.replace(BASE.loop, name="tiny_teacher", seed=1, steps=1800, checkpoint_every=300),
    model=MODEL,
    visemes=Path("runs/tiny_visemes/weights.safetensors"),
    init_from="runs/tiny_base/weights.safetensors",
    optim=OptimConfig(
        name="muon", lr=1.5e-3, warmup_steps=50, schedule="cosine", decay_steps=1750, lr_end=5e-5, clip=1.0
    ),
    loss=dataclasses.replace(BASE.loss, face=2.0, mouth=8.0),
)

__all__ = ["CLIP", "MODEL", "PRESET", "SCHEDULE", "VIDEOS"]
