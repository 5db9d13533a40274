"""The tiny world's recipe on two cores: teacher, student, decoder, their figures and the files to ship.

    python train.py tiny_recipe          about a day of two cores; every part resumes

VAE, speech encoder and reader are the shipped ones: what is trained here is what draws.
"""

import dataclasses

from configs.tiny_decoder import PRESET as DECODER
from configs.tiny_student import PRESET as STUDENT
from configs.tiny_teacher import PRESET as TEACHER
from tm_jax.flags import WEIGHTS
from tm_jax.training.interpolate import place_between
from tm_jax.training.recipe import Recipe

SHARE = 0.3
"""How much of what DMD changes is shipped: docs/benchmarks.md, under "Part of the way"."""
SHIPPED = {"vae": WEIGHTS / "vae.safetensors", "visemes": WEIGHTS / "visemes.safetensors"}

PRESET = Recipe(
    teacher=dataclasses.replace(TEACHER, **SHIPPED),
    student=dataclasses.replace(STUDENT, **SHIPPED),
    decoder=dataclasses.replace(DECODER, student=place_between(STUDENT.loop.folder, SHARE), **SHIPPED),
    share=SHARE,
)
