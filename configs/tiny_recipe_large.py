"""The tiny world's recipe on one accelerator: tiny_teacher_large, tiny_student_large, figures, files to ship.

python train.py tiny_recipe_large    every part resumes; not run on an accelerator yet
"""

import dataclasses

from configs.tiny_recipe import SHIPPED
from configs.tiny_student_large import PRESET as STUDENT
from configs.tiny_teacher_large import PRESET as TEACHER
from tm_jax.training.recipe import Recipe

PRESET = Recipe(
    teacher=dataclasses.replace(TEACHER, **SHIPPED),
    student=dataclasses.replace(STUDENT, **SHIPPED),
    compile_ahead=True,
)
