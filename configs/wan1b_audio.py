"""The size of Wan2.1-T2V-1.3B learns to hear, first stage: the audio layers alone.

    python train.py wan1b_audio --prepared DIR --init-from alibaba-pai/Wan2.1-Fun-1.3B-InP
    python train.py wan1b_teacher --prepared DIR --init-from runs/wan1b_audio/weights.safetensors

See wan14b_audio.  By `python -m tm_jax.plan wan1b_audio` (2026-11-28, roofline) a step takes as long as
wan1b_teacher's, and all of it 11 GPU-hours on gpu:h100:1x8 or 22 chip-hours on v5p:2x2x2.  Its memory, less
than wan1b_teacher's, has not been compiled.
"""

import dataclasses

from configs import wan1b_teacher as whole
from configs import wan14b_audio as large

PRESET = dataclasses.replace(
    large.PRESET,
    loop=dataclasses.replace(whole.PRESET.loop, name="wan1b_audio", steps=5000),
    model=whole.MODEL,
)
