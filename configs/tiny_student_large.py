"""tiny_student for an accelerator: more pairs, bigger batches, noise that neighbouring chunks share.

    python train.py tiny_student_large   needs runs/tiny_teacher_large beside tiny_student's inputs

Not trained yet.
"""

import dataclasses
from pathlib import Path

from configs.tiny_student import PRESET as TINY
from configs.tiny_teacher_large import CLIP, MODEL, VIDEOS

WARMUP = 400

PRESET = dataclasses.replace(
    TINY,
    loop=dataclasses.replace(
        TINY.loop,
        name="tiny_student_large",
        steps=WARMUP + 900,
        batch_size=32,
        checkpoint_every=400,
        preview_every=650,
        log_every=50,
        threads=12,
        prefetch=16,
    ),
    model=MODEL,
    teacher=Path("runs/tiny_teacher_large/weights.safetensors"),
    warmup=WARMUP,
    rollout=dataclasses.replace(TINY.rollout, correlation=0.5),
    clip=CLIP,
    videos=VIDEOS,
    on_device=True,
    pairs=dataclasses.replace(TINY.pairs, count=1024, batch=64),
)
