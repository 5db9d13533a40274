"""Wan2.1-I2V-14B learns to hear, first stage: the audio layers alone, 1.3 of 17.7 B parameters.

    python train.py wan14b_audio --prepared DIR --init-from Wan-AI/Wan2.1-I2V-14B-480P-Diffusers

What Wan can do stays untouched while the new layers find their scale; neither gradients nor moments of the
other parameters are held.  The second stage then trains all:

    python train.py wan14b_teacher --prepared DIR --init-from runs/wan14b_audio/weights.safetensors

Lengths and rates are this project's, untried at this size.

By `python -m tm_jax.plan wan14b_audio --topology …` (2026-11-28, roofline) a step takes as long as
wan14b_teacher's, and all of it 268 GPU-hours on gpu:h100:8x8, 574 chip-hours on v5p:4x4x4, 322 on v6e:16x16.
Its memory, which is less than wan14b_teacher's, has not been compiled.
"""

import dataclasses

from configs import wan14b_teacher as whole
from tm_jax.training.optim import OptimConfig

PRESET = dataclasses.replace(
    whole.PRESET,
    loop=dataclasses.replace(whole.PRESET.loop, name="wan14b_audio", steps=5000),
    optim=OptimConfig(lr=1e-4, warmup_steps=500, weight_decay=0.01, clip=1.0),
    trained="audio",
)
