"""Lip-sync by the way of speaking: accents, rates and background noise, on held-out voices and faces.

    python -m tm_jax.evaluation.conditions --clips 12

The same faces say the same sentences in every row; only what the row names is different.
"""

import dataclasses
import sys
from pathlib import Path

from tm_jax.command import run
from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS, ShippedPath, parse

CONDITIONS = {
    "as in the split": {},
    "American English": {"english": "en-us"},
    "Scottish English": {"english": "en-gb-scotland"},
    "Received Pronunciation": {"english": "en-gb-x-rp"},
    "Caribbean English": {"english": "en-029"},
    "100 words a minute": {"rate": 100},
    "165 words a minute": {"rate": 165},
    "240 words a minute": {"rate": 240},
    "noise at 20 dB": {"snr": 20.0},
    "noise at 10 dB": {"snr": 10.0},
    "noise at 5 dB": {"snr": 5.0},
}
"""By name: the fields of `data.puppets.world.Spoken`."""
LEAST = {"noise at 10 dB": 0.85}
"""What a student must reach."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure lip-sync under accents, speaking rates and noise."""

    clips: int = 12
    """Held-out clips of each condition."""
    seconds: float = 6.0
    """Least length of a clip."""
    vae: ShippedPath = WEIGHTS / "vae.safetensors"
    """Weights of the VAE."""
    reader: ShippedPath = WEIGHTS / "reader.safetensors"
    """Weights of the reader."""
    visemes: ShippedPath = WEIGHTS / "visemes.safetensors"
    """Weights of the viseme encoder."""
    student: ShippedPath = WEIGHTS / "student.safetensors"
    """Weights of the student."""
    teacher: Path = Path("runs/tiny_teacher/weights.safetensors")
    """Weights of the teacher; left out if the file does not exist."""
    guidance: float = 1.5
    """Audio guidance of the teacher's sampler."""
    steps: int = 20
    """Steps of the teacher's sampler."""
    size: int = 128
    """Side of the pictures."""
    batch: int = 4
    """Clips at a time."""
    out: Path = Path("out/conditions")
    """Directory for report.json and report.txt."""


def report(arguments: Arguments) -> str:
    """Measures every condition and writes the report; returns the table."""
    from tqdm import tqdm

    from tm_jax.data.puppets.world import PuppetWorld, Spoken
    from tm_jax.evaluation.__main__ import Arguments as Everything
    from tm_jax.evaluation.evaluate import about
    from tm_jax.evaluation.generators import TeacherSampler
    from tm_jax.evaluation.report import output_directory, table, write_json
    from tm_jax.evaluation.systems import Systems

    out = output_directory(arguments.out)
    shared = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
    systems = Systems(Everything(what="student", warmup=Path("none"), **shared))
    generators = {"student": systems.streamer(arguments.student)}
    if arguments.teacher.exists():
        teacher = systems.model(arguments.teacher)
        generators["teacher"] = TeacherSampler(teacher, systems.vae, systems.sampler, systems.rollout.chunk)
    figures = []
    for name, spoken in tqdm(CONDITIONS.items(), unit="condition", leave=False):
        world = PuppetWorld(split="heldout", size=arguments.size, spoken=Spoken(**spoken))
        figures += _figures(name, world, systems, generators, arguments)
    write_json(out / "report.json", figures, about("tm_jax.evaluation.conditions", arguments))
    text = table(figures)
    (out / "report.txt").write_text(text + "\n", encoding="utf-8")
    return text


def _figures(name: str, world, systems, generators: dict, arguments: Arguments) -> list:
    """Lip-sync of every system under one condition."""
    import numpy as np

    from tm_jax.evaluation.generators import HeldOut, clip_frames
    from tm_jax.evaluation.lip_sync import lip_sync
    from tm_jax.evaluation.reader import read
    from tm_jax.evaluation.report import Figure
    from tm_jax.evaluation.streams import long_video

    frames = clip_frames(arguments.seconds, systems.rollout.chunk)
    read_of: dict[str, list] = {system: [] for system in generators}
    for start in range(0, arguments.clips, arguments.batch):
        indices = list(range(start, min(arguments.clips, start + arguments.batch)))
        videos = [long_video(world, index, frames / 25, systems.encoder) for index in indices]
        held_out = HeldOut((), videos, indices)
        for system, generator in generators.items():
            read_of[system].append(read(systems.reader, generator(held_out)).track("opening"))
    tracks = [world.truth(index, frames / 25) for index in range(arguments.clips)]
    truth = np.stack([track.opening for track in tracks]).astype(np.float64)
    mode = np.stack([track.mode for track in tracks])
    figures = []
    for system, parts in read_of.items():
        sync = lip_sync(np.concatenate(parts), truth, mode).correlation
        least = LEAST.get(name) if system == "student" else None
        bounds = {"low": sync.low, "high": sync.high, "note": f"{sync.count} clips, speaking frames"}
        figures.append(Figure(f"{system}: {name}", sync.mean, least, **bounds))
    return figures


def main() -> int:
    """Prints the table; returns the exit status."""
    return run("tm_jax.evaluation.conditions", _measure)


def _measure() -> None:
    """Parse, measure, print."""
    arguments = parse(Arguments, prog="python -m tm_jax.evaluation.conditions")
    if arguments.clips < 1 or arguments.seconds < 3:
        raise InputError(
            f"--clips {arguments.clips} --seconds {arguments.seconds}: give at least 1 clip of 3 seconds"
        )
    # Importing JAX takes seconds: a mistyped flag is answered before.
    print(report(arguments))


if __name__ == "__main__":
    sys.exit(main())
