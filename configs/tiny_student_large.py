"""tiny_student for an accelerator: bigger batches, σ of 1 and ½, correlated noise, a critic that leads.

Why so stands in docs/benchmarks.md, under "Part of the way" and the ablation.

    python train.py tiny_student_large   needs runs/tiny_teacher_large beside tiny_student's inputs

Not trained yet.
"""

import dataclasses
from pathlib import Path

from configs.tiny_student import PRESET as TINY
from configs.tiny_teacher_large import CLIP, MODEL, VIDEOS
from tm_jax.diffusion.sampler import Guidance
from tm_jax.diffusion.schedule import Schedule

WARMUP, LEAD = 400, 100
GUIDANCE = Guidance(audio=1.5, mouth_alone=True)

PRESET = dataclasses.replace(
    TINY,
    loop=dataclasses.replace(
        TINY.loop,
        name="tiny_student_large",
        steps=WARMUP + LEAD + 900,
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
    critic_lead=LEAD,
    rollout=dataclasses.replace(TINY.rollout, schedule=Schedule(shift=1.0), correlation=0.3),
    loss=dataclasses.replace(TINY.loss, guidance=GUIDANCE),
    clip=CLIP,
    videos=VIDEOS,
    on_device=True,
    pairs=dataclasses.replace(
        TINY.pairs, count=1024, batch=64, sampler=dataclasses.replace(TINY.pairs.sampler, guidance=GUIDANCE)
    ),
)
