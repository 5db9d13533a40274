"""The teacher of wan1b_teacher distilled to a sparse causal model of 2 steps a chunk.

    python train.py wan1b_student                needs runs/wan1b_teacher

What it takes, by `python -m tm_jax.plan wan1b_student --topology …` (2026-11-28; time by the roofline), in
student_long, the program that takes the most memory:

    gpu:h100:1x8    20 of 80 GB a GPU     1.8 s an update, MFU 44 %      36 GPU-hours in all
    v5p:2x2x2       18 of 103 GB a chip   3.8 s, MFU 46 %                74 chip-hours
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
