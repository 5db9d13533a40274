"""The tiny world's recipe on one accelerator: larger teacher and student, decoder, figures, files to ship.

python train.py tiny_recipe_large    every part resumes; not run on an accelerator yet
"""

import dataclasses

from configs.tiny_decoder import PRESET as DECODER
from configs.tiny_recipe import SHARE, SHIPPED
from configs.tiny_student_large import PRESET as STUDENT
from configs.tiny_teacher_large import PRESET as TEACHER
from configs.tiny_teacher_large import VIDEOS
from tm_jax.training.interpolate import place_between
from tm_jax.training.recipe import Recipe

PRESET = Recipe(
    teacher=dataclasses.replace(TEACHER, **SHIPPED),
    student=dataclasses.replace(STUDENT, **SHIPPED),
    decoder=dataclasses.replace(
        DECODER,
        loop=dataclasses.replace(
            DECODER.loop, name="tiny_decoder_large", batch_size=8, threads=12, prefetch=16
        ),
        windows=dataclasses.replace(DECODER.windows, variety=VIDEOS.variety),
        student=place_between(STUDENT.loop.folder, SHARE),
        **SHIPPED,
    ),
    share=SHARE,
    compile_ahead=True,
)
