"""tiny_teacher for an accelerator: three times the parameters, sixteen times the batch, blinks weighed.

    python train.py tiny_teacher_large   the same inputs as tiny_teacher

Half of the faces are like photographs, and the framing varies: a person's picture is to move, too.
Not trained yet.  On one H100 a step of tiny_teacher's model with this batch took 31 to 42 ms.
"""

import dataclasses

from configs.tiny_teacher import MODEL as SMALL
from configs.tiny_teacher import PRESET as TINY
from tm_jax.data.puppets.variety import VARIED

STEPS = 4000
MODEL = dataclasses.replace(SMALL, width=256, ffn=1024, layers=8, dtype="bfloat16")
CLIP = dataclasses.replace(TINY.clip, blinks=0.5)
VIDEOS = dataclasses.replace(TINY.videos, count=4096, workers=12, batch=16, variety=VARIED)

PRESET = dataclasses.replace(
    TINY,
    loop=dataclasses.replace(
        TINY.loop,
        name="tiny_teacher_large",
        steps=STEPS,
        batch_size=64,
        checkpoint_every=1000,
        preview_every=1000,
        log_every=50,
        threads=12,
        prefetch=16,
    ),
    model=MODEL,
    optim=dataclasses.replace(TINY.optim, lr=3e-3, decay_steps=STEPS - 50),
    loss=dataclasses.replace(TINY.loss, blink=20.0),
    clip=CLIP,
    videos=VIDEOS,
    on_device=True,
)
