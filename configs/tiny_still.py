"""The tiny world's teacher learns to take what does not move from its condition.

    python train.py tiny_still           needs runs/tiny_vae and runs/tiny_base;
                                         writes runs/tiny_still/weights.safetensors

It goes on from tiny_base.  The condition now holds the reference picture, still, in every frame, where Wan
has mid-grey after the first: finding every cell of hair and background by attention is learnt by a model
of 14 B parameters from millions of videos, and not by one of 3.5 M from 320.
"""

import dataclasses

from configs.tiny_base import CLIP, SCHEDULE
from configs.tiny_base import MODEL as BASE_MODEL
from configs.tiny_base import PRESET as BASE
from configs.tiny_base import VIDEOS as BASE_VIDEOS
from tm_jax.training.optim import OptimConfig

MODEL = dataclasses.replace(BASE_MODEL, still_condition=True, predicts="change")
VIDEOS = dataclasses.replace(BASE_VIDEOS, still_condition=True)

PRESET = dataclasses.replace(
    BASE,
    loop=dataclasses.replace(BASE.loop, name="tiny_still", seed=2, steps=400, checkpoint_every=100),
    model=MODEL,
    videos=VIDEOS,
    init_from="runs/tiny_base/weights.safetensors",
    optim=OptimConfig(name="muon", lr=1.5e-3, warmup_steps=20, clip=1.0),
    loss=dataclasses.replace(BASE.loss, face=3.0, mouth=5.0, low=0.5),
)

__all__ = ["CLIP", "MODEL", "PRESET", "SCHEDULE", "VIDEOS"]
