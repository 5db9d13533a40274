"""Evaluate on held-out characters: python -m tm_jax.evaluation --what all --out out/evaluation."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from tm_jax.command import run
from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS, ShippedPath, parse


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure models on held-out characters; write JSON, pictures and a table."""

    what: Literal["reader", "vae", "teacher", "student", "drift", "all"] = "all"
    """Which part to measure; student includes the teacher and the baselines whose weights are there."""
    clips: int = 60
    """Held-out clips."""
    seconds: float = 6.0
    """Least length of a clip."""
    minutes: float = 10.0
    """Length of each long stream (drift)."""
    styles: tuple[Literal["shaded", "anime", "photo"], ...] = ("shaded", "anime", "photo")
    """Which characters stream (drift)."""
    out: Path = Path("out/evaluation")
    """Directory for report.json, report.txt and the pictures."""
    vae: ShippedPath = WEIGHTS / "vae.safetensors"
    """Weights of the VAE."""
    reader: ShippedPath = WEIGHTS / "reader.safetensors"
    """Weights of the reader."""
    visemes: ShippedPath = WEIGHTS / "visemes.safetensors"
    """Weights of the viseme encoder, for models that listen through it."""
    teacher: Path = Path("runs/tiny_teacher/weights.safetensors")
    """Weights of the teacher, which is also the untrained baseline; left out if the file does not exist."""
    warmup: Path = Path("runs/tiny_student/warmup.safetensors")
    """Weights of the student after the warm-up alone; left out if the file does not exist."""
    student: ShippedPath = WEIGHTS / "student.safetensors"
    """Weights of the student."""
    shift: float = 3.0
    """Timestep shift of the noise levels of the teacher, and of a student whose file does not say."""
    guidance: float = 1.5
    """Audio guidance of the teacher's sampler."""
    steps: int = 20
    """Steps of the teacher's sampler."""
    student_steps: int = 2
    """Steps of the student, where its file does not say, and of the baselines beside it."""
    chunk: int = 3
    """Latent frames a chunk, where the student's file does not say."""
    batch: int = 4
    """Clips at a time."""
    size: int = 128
    """Side of the pictures."""
    oracle_clips: int = 400
    """Training sounds that the oracle learns from; 0 leaves the oracle out."""
    seed: int = 0
    """Seed of the world and of the noise."""


def main() -> int:
    """Evaluates what the command line says; returns the exit status."""
    return run("tm_jax.evaluation", _evaluate)


def _evaluate() -> None:
    """Parse, evaluate, print."""
    arguments = parse(Arguments, prog="python -m tm_jax.evaluation", description=__doc__)
    if arguments.clips < 1 or arguments.seconds < 3:
        raise InputError(
            f"--clips {arguments.clips} --seconds {arguments.seconds}: give at least 1 clip of 3 seconds"
        )
    counts = ("steps", "student_steps", "chunk", "batch", "size")
    if small := [name for name in counts if getattr(arguments, name) < 1]:
        raise InputError(f"--{small[0].replace('_', '-')} must be at least 1")
    if min(arguments.seed, arguments.oracle_clips, arguments.minutes) < 0:
        raise InputError("--seed, --oracle-clips and --minutes must not be negative")
    # Importing JAX takes seconds: a mistyped flag is answered before.
    from tm_jax.evaluation.evaluate import evaluate

    evaluate(arguments)


if __name__ == "__main__":
    sys.exit(main())
