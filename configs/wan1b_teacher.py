"""The size of Wan2.1-T2V-1.3B with picture and sound: the full-size path on one or a few devices.

    python train.py wan1b_teacher --init-from alibaba-pai/Wan2.1-Fun-1.3B-InP

Any image-to-video Wan of this size fits, in diffusers' names or the release's.  T2V-1.3B itself sees no
reference picture: it fits with --model.no-has-image --model.in-channels 16, as a teacher without one.

What it takes, by `python -m tm_jax.plan wan1b_teacher --topology …` (2026-11-28; time by the roofline):

    gpu:h100:1x8    10 of 80 GB a GPU     1.0 s a step, MFU 45 %     43 GPU-hours in all
    v5p:2x2x2       11 of 103 GB a chip   2.0 s, MFU 47 %            89 chip-hours
"""

import dataclasses

from configs import wan14b_teacher as large
from tm_jax.sharding import MeshConfig

MODEL = dataclasses.replace(large.MODEL, width=1536, ffn=8960, heads=12, layers=30, audio_dim=1024)

PRESET = dataclasses.replace(
    large.PRESET,
    loop=dataclasses.replace(large.PRESET.loop, name="wan1b_teacher", batch_size=8, mesh=MeshConfig()),
    model=MODEL,
)
