"""The teacher of wan1b_teacher distilled to a sparse causal model of 2 steps a chunk.

python train.py wan1b_student                needs runs/wan1b_teacher
"""

import dataclasses
from pathlib import Path

from configs import wan14b_student as large
from configs.wan1b_teacher import MODEL
from tm_jax.sharding import MeshConfig

PRESET = dataclasses.replace(
    large.PRESET,
    loop=dataclasses.replace(large.PRESET.loop, name="wan1b_student", batch_size=8, mesh=MeshConfig()),
    model=MODEL,
    teacher=Path("runs/wan1b_teacher/weights.safetensors"),
)
