"""What each part of tiny_student's distillation is worth: short trainings that differ in one thing.

python train.py tiny_ablation        needs runs/tiny_teacher; a line for each variant
"""

import dataclasses

from configs.tiny_recipe import SHIPPED
from configs.tiny_student import PRESET as STUDENT
from tm_jax.training.ablation import Ablation

PRESET = Ablation(student=dataclasses.replace(STUDENT, **SHIPPED))
