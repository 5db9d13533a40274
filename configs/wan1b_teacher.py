"""The size of Wan2.1-T2V-1.3B with picture and sound: the full-size path on one or a few devices.

    python train.py wan1b_teacher --init-from alibaba-pai/Wan2.1-Fun-1.3B-InP

Any image-to-video Wan of this size fits, in diffusers' names or the release's.  T2V-1.3B itself sees no
reference picture: it fits with --model.no-has-image --model.in-channels 16, as a teacher without one.
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
