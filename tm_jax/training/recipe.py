"""The whole recipe of a small world as one command: teacher → student → decoder → figures → files to ship.

    python train.py tiny_recipe             two cores
    python train.py tiny_recipe_large       one accelerator

VAE, speech encoder and reader are taken as they are shipped.  Every part goes on where it was interrupted,
by the same command: trainings from their checkpoints, figures if they are missing or older than the student.
"""

import concurrent.futures
import dataclasses
import sys
from pathlib import Path
from typing import Any

from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS
from tm_jax.training.decoder_phase import DecoderExperiment
from tm_jax.training.interpolate import between, place_between
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.student_experiment import StudentExperiment
from tm_jax.training.teacher_phase import TeacherExperiment


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The trainings and what is made of them."""

    teacher: TeacherExperiment
    student: StudentExperiment
    decoder: DecoderExperiment | None = None
    """How the VAE's decoder learns to draw what the student makes; None leaves it as it is."""
    share: float = 1.0
    """How far from the warm-up to DMD's end the student lies that the decoder learns and that is shipped
    (`interpolate`); 1 is the end."""
    clips: int = 60
    """Held-out clips of the figures; 0 for no figures."""
    reader: Path = WEIGHTS / "reader.safetensors"
    """Weights of the reader that measures."""
    compile_ahead: bool = False
    """Whether every program of both trainings is compiled from the beginning on, in threads."""
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
        if not 0 < self.share <= 1:
            raise ValueError(f"share {self.share:g}: it lies above 0 and up to 1")
        made = place_between(self.student.loop.folder, self.share)
        if self.decoder is not None and self.decoder.student != made:
            raise ValueError(f"decoder.student is {self.decoder.student}; the recipe's student is {made}")

    def run(self) -> None:
        """Every part that is not done yet.

        Raises:
            InputError: whatever a part finds wrong, or a training that its time limit ended.
        """
        todo = [one for one in (self.teacher, self.student) if not self._is_done(one.loop)]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            try:
                # Both are built before either is trained, so that both are compiled meanwhile.
                for experiment, phase in [(one, self._built(one, pool)) for one in todo]:
                    self._train(experiment, phase)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        student, vae = between(self.student.loop.folder, self.share), Path(self.student.vae)
        if self.decoder is not None:
            # The student is a file that it reads when it is built.
            if not self._is_done(self.decoder.loop):
                self._train(self.decoder, self.decoder.build())
            vae = self.decoder.loop.folder / "weights.safetensors"
        self._measure(student, vae)
        self._ship(student, vae)

    def _is_done(self, loop: LoopConfig) -> bool:
        from tm_jax.pretrained.runs import saved_steps

        return loop.steps in saved_steps(loop.folder / "checkpoints")

    def _built(self, experiment: Any, pool: concurrent.futures.Executor) -> Any:
        """The phase, whose programs the pool begins to compile."""
        from tm_jax.sharding import make_mesh
        from tm_jax.training.ahead import compile_ahead

        phase = experiment.build()
        if self.compile_ahead:
            mesh = make_mesh(experiment.loop.mesh)
            compile_ahead(pool, mesh, phase.steps(mesh))
        return phase

    def _train(self, experiment: Any, phase: Any) -> None:
        from tm_jax.training.loop import train

        loop = experiment.loop
        print(f"recipe: {loop.name}", file=sys.stderr)
        train(phase, loop, experiment)
        if not self._is_done(loop):
            raise InputError(f"{loop.name} is not done: the same command goes on with it.")

    def _measure(self, student: Path, vae: Path) -> None:
        from tm_jax.evaluation.__main__ import Arguments
        from tm_jax.evaluation.evaluate import evaluate

        report = self.out / "report" / "report.json"
        newest = max(path.stat().st_mtime for path in (student, vae))
        if not self.clips or (report.exists() and report.stat().st_mtime > newest):
            return
        sampler = self.teacher.sampler
        evaluate(
            Arguments(
                what="student",
                clips=self.clips,
                out=report.parent,
                vae=vae,
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

    def _ship(self, student: Path, vae: Path) -> None:
        from tm_jax.training.release import Arguments, release

        release(
            Arguments(
                vae=vae,
                reader=self.reader,
                visemes=Path(self.student.visemes),
                student=student,
                out=self.out / "weights",
            )
        )
