"""The tiny world's teacher: a bidirectional, audio-conditioned DiT on the latents of tiny_vae.

    python train.py tiny_teacher         needs runs/tiny_vae, runs/tiny_visemes and runs/tiny_still;
                                         writes runs/tiny_teacher/weights.safetensors

It goes on from tiny_still, which has learnt to draw, and learns to hear afresh, through the viseme encoder.
"""

import dataclasses
from pathlib import Path

from configs.tiny_still import CLIP, SCHEDULE, VIDEOS
from configs.tiny_still import MODEL as STILL_MODEL
from configs.tiny_still import PRESET as STILL
from tm_jax.models.visemes import VisemeConfig
from tm_jax.training.optim import OptimConfig

MODEL = dataclasses.replace(STILL_MODEL, audio_width=VisemeConfig().outputs)
STEPS = 4000

PRESET = dataclasses.replace(
    STILL,
    loop=dataclasses.replace(
        STILL.loop, name="tiny_teacher", seed=1, steps=STEPS, checkpoint_every=200, preview_every=1000
    ),
    model=MODEL,
    visemes=Path("runs/tiny_visemes/weights.safetensors"),
    init_from="runs/tiny_still/weights.safetensors",
    optim=OptimConfig(
        name="muon",
        lr=1.5e-3,
        warmup_steps=50,
        schedule="cosine",
        decay_steps=STEPS - 50,
        lr_end=3e-5,
        clip=1.0,
    ),
    loss=dataclasses.replace(STILL.loss, face=3.0, mouth=8.0),
)

__all__ = ["CLIP", "MODEL", "PRESET", "SCHEDULE", "VIDEOS"]
