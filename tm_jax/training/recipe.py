"""The whole recipe of a small world as one command: teacher → student → figures → files to ship.

    python train.py tiny_recipe             two cores
    python train.py tiny_recipe_large       one accelerator

VAE, speech encoder and reader are taken as they are shipped.  Every part goes on where it was interrupted,
by the same command: trainings from their checkpoints, figures if they are missing or older than the student.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS
from tm_jax.training.student_experiment import StudentExperiment
from tm_jax.training.teacher_phase import TeacherExperiment


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Two trainings and what is made of them."""

    teacher: TeacherExperiment
    student: StudentExperiment
    clips: int = 60
    """Held-out clips of the figures; 0 for no figures."""
    reader: Path = WEIGHTS / "reader.safetensors"
    """Weights of the reader that measures."""
    out: Path = Path("out/recipe")
    """Folder for the figures (report/) and for the files to ship (weights/)."""

    def __post_init__(self):
        if self.student.model != self.teacher.model:
            raise ValueError("teacher and student of a recipe are one model: give both the same")
        for name in ("vae", "visemes", "prepared"):
            if getattr(self.student, name) != getattr(self.teacher, name):
                raise ValueError(f"teacher and student of a recipe differ in {name}: give both the same")
        made = self.teacher.loop.folder / "weights.safetensors"
        if Path(self.student.teacher) != made:
            raise ValueError(f"student.teacher is {self.student.teacher}; the recipe's teacher is {made}")

    def run(self) -> None:
        """Every part that is not done yet.

        Raises:
            InputError: whatever a part finds wrong, or a training that its time limit ended.
        """
        for experiment in (self.teacher, self.student):
            self._train(experiment)
        student = self.student.loop.folder / "weights.safetensors"
        self._measure(student)
        self._ship(student)

    def _train(self, experiment: Any) -> None:
        from tm_jax.training.checkpoint import saved_steps
        from tm_jax.training.loop import train

        loop = experiment.loop
        if loop.steps not in saved_steps(loop.folder / "checkpoints"):
            print(f"recipe: {loop.name}", file=sys.stderr)
            train(experiment.build(), loop, experiment)
        if loop.steps not in saved_steps(loop.folder / "checkpoints"):
            raise InputError(f"{loop.name} is not done: the same command goes on with it.")

    def _measure(self, student: Path) -> None:
        from tm_jax.evaluation.__main__ import Arguments
        from tm_jax.evaluation.evaluate import evaluate

        report = self.out / "report" / "report.json"
        if not self.clips or (report.exists() and report.stat().st_mtime > student.stat().st_mtime):
            return
        sampler = self.teacher.sampler
        evaluate(
            Arguments(
                what="student",
                clips=self.clips,
                out=report.parent,
                vae=Path(self.student.vae),
                reader=self.reader,
                visemes=Path(self.student.visemes),
                teacher=Path(self.student.teacher),
                warmup=self.student.loop.folder / "warmup.safetensors",
                student=student,
                shift=sampler.schedule.shift,
                guidance=sampler.guidance.audio,
                steps=sampler.steps,
                size=self.student.videos.size,
            )
        )

    def _ship(self, student: Path) -> None:
        from tm_jax.training.release import Arguments, release

        release(
            Arguments(
                vae=Path(self.student.vae),
                reader=self.reader,
                visemes=Path(self.student.visemes),
                student=student,
                out=self.out / "weights",
            )
        )
