"""One stream of many chunks: is it as large and as fast at its end as it was at its beginning?

    python -m tm_jax.bench soak                                              # JAX, the shipped student
    python -m tm_jax.bench soak --backend torch --weights out/export         # PyTorch, where no JAX need be

At every tenth of the stream: what the process holds, its threads, and the median time of a chunk.  The bound
is on memory and threads in the second half of the stream, when pools and caches of the libraries have their
size; times on a machine with other work to do say what else it did.
"""

import dataclasses
import itertools
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS, ShippedPath
from tm_jax.media.picture import load_picture
from tm_jax.media.sound import read_audio
from tm_jax.serve.engines import load
from tm_jax.streaming.statistics import resident_bytes

ASSETS = Path(__file__).parent.parent / "assets"
GROWTH = 1.01
"""What memory at the end may be of what it was in the middle."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Stream so many chunks and watch memory, threads and times."""

    backend: Literal["jax", "torch"] = "jax"
    """jax, or torch for an export of tm_jax.export."""
    weights: ShippedPath = WEIGHTS
    """Folder of the models: ours for jax, an export for torch."""
    dit_devices: str = ""
    """Device of the transformer (default: the first)."""
    vae_devices: str = ""
    """Device of the VAE (default: the engine's choice)."""
    steps: int | None = None
    """Denoising steps of a chunk (default: those that the student was distilled for)."""
    chunks: int = 1000
    """Chunks of the stream."""

    def __post_init__(self):
        if self.chunks < 10:
            raise InputError(f"--chunks {self.chunks}: give at least 10, one for each tenth.")


@dataclasses.dataclass(frozen=True)
class Tenth:
    """The process at the end of a tenth of the stream."""

    chunks: int
    """So far."""
    mebibytes: float
    """Resident."""
    threads: int
    """Of the operating system, those of libraries too."""
    milliseconds: float
    """Median of the tenth's chunks, from one to the next."""


@dataclasses.dataclass(frozen=True)
class Report:
    """All tenths of a stream."""

    backend: str
    tenths: tuple[Tenth, ...]

    @property
    def growth(self) -> float:
        """Memory at the end over memory in the middle."""
        return self.tenths[-1].mebibytes / self.tenths[len(self.tenths) // 2 - 1].mebibytes

    @property
    def drift(self) -> float:
        """Time of a chunk in the last tenth over that in the first."""
        return self.tenths[-1].milliseconds / self.tenths[0].milliseconds

    @property
    def within_bound(self) -> bool:
        """Whether neither memory nor threads grew."""
        threads = [one.threads for one in self.tenths[len(self.tenths) // 2 - 1 :]]
        return self.growth <= GROWTH and threads[-1] <= threads[0]

    def __str__(self) -> str:
        rows = [
            f"| {one.chunks} | {one.mebibytes:.0f} | {one.threads} | {one.milliseconds:.0f} |"
            for one in self.tenths
        ]
        verdict = f"{'within' if self.within_bound else 'BEYOND'} the bound of {GROWTH}"
        return "\n".join(
            [
                f"{self.backend}, {self.tenths[-1].chunks} chunks",
                "| chunks | MiB | threads | ms a chunk |",
                "|---|---|---|---|",
                *rows,
                f"memory in the second half × {self.growth:.3f}, {verdict}; time × {self.drift:.2f}",
            ]
        )


def run(arguments: Arguments) -> Report:
    """The report; each tenth is printed as it comes."""
    engine = load(arguments)
    engine.warm_up()
    picture = load_picture(ASSETS / "photo.png", engine.size)
    tenths, ends = [], []
    for chunk in engine.stream(picture, _speech_for_ever()):
        ends.append(chunk.timing.elapsed)
        if len(ends) == (len(tenths) + 1) * arguments.chunks // 10:
            begun = ends[tenths[-1].chunks - 1 :] if tenths else ends
            taken = 1e3 * statistics.median(np.diff(begun).tolist() or [ends[0]])
            threads = len(os.listdir("/proc/self/task"))
            tenths.append(Tenth(len(ends), resident_bytes() / 2**20, threads, taken))
            print(f"{len(ends)}: {tenths[-1].mebibytes:.0f} MiB", flush=True)
        if len(ends) == arguments.chunks:
            break
    return Report(arguments.backend, tuple(tenths))


def _speech_for_ever() -> Iterator[np.ndarray]:
    return itertools.cycle(list(read_audio(ASSETS / "speech.wav").blocks))
