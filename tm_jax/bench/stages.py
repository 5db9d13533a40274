"""The PyTorch engine's two stages pinned to a core each: a chunk of both against the slower stage by itself.

    python -m tm_jax.bench stages                                   # random weights of the tiny size
    python -m tm_jax.bench stages --folder out/export

If the stages ran under each other and nothing stood between them, a chunk would take what the slower stage
takes.  Each stage has one thread of PyTorch on a core of its own, and is also run alone: with frames that are
blank, or with the same latents again and again.  The three are measured in turn, on a CPU, under Linux.
"""

import dataclasses
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tm_jax.bench.serving_measure import UNMEASURED, WithoutVae, seconds_a_chunk, speech, sustained
from tm_jax.errors import InputError
from tm_jax.streaming.engine import StreamEngine
from tm_jax.torch_runtime.backend import Latents, TorchBackend
from tm_jax.torch_runtime.parts import load_backend
from tm_jax.torch_runtime.random_parts import CONFIGS, random_backend

BOUND = 1.25
"""What a chunk may take of what the slower stage takes."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure what keeps the stages from running under each other."""

    folder: Path | None = None
    """An export (default: random weights of the tiny size)."""
    chunks: int = 20
    """Chunks of a measurement, after three that are not measured."""
    rounds: int = 5
    """Times that each of the three is measured, in turn."""

    def __post_init__(self):
        if min(self.chunks, self.rounds) < 1:
            raise InputError("--chunks and --rounds must be at least 1.")


@dataclasses.dataclass(frozen=True)
class Report:
    """Seconds a chunk, one of each round."""

    dit: tuple[float, ...]
    """Denoising alone."""
    vae: tuple[float, ...]
    """Decoding alone."""
    both: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Both over the slower one; the median of the rounds."""
        rounds = zip(self.both, self.dit, self.vae, strict=True)
        return statistics.median(both / max(dit, vae) for both, dit, vae in rounds)

    @property
    def within_bound(self) -> bool:
        """Whether a chunk takes hardly more than the slower stage."""
        return self.ratio <= BOUND

    def __str__(self) -> str:
        rows = zip(self.dit, self.vae, self.both, strict=True)
        verdict = "within" if self.within_bound else "BEYOND"
        return "\n".join(
            [
                "| DiT alone, ms a chunk | VAE alone | both | both / the slower |",
                "|---|---|---|---|",
                *(
                    f"| {1e3 * dit:.0f} | {1e3 * vae:.0f} | {1e3 * both:.0f} | {both / max(dit, vae):.2f} |"
                    for dit, vae, both in rows
                ),
                f"median {self.ratio:.2f}, {verdict} the bound of {BOUND}",
            ]
        )


class Pinned:
    """A backend whose stages have a core each.

    Args:
      denoises: False gives the first chunk's latents again and again.
    """

    def __init__(self, backend: TorchBackend | WithoutVae, cores: tuple[int, int], *, denoises=True):
        self._backend, self._cores, self._denoises = backend, cores, denoises
        self._made: Latents | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def begin(self, reference):
        """The backend's; what calls it is the DiT's thread."""
        os.sched_setaffinity(0, {self._cores[0]})
        return self._backend.begin(reference)

    def denoise(self, reference, state, noises, windows, mode):
        """The backend's, or what it once gave."""
        if self._denoises or self._made is None:
            self._made, state = self._backend.denoise(reference, state, noises, windows, mode)
        return self._made, state

    def decode(self, latents, state, *, first):
        """The backend's; what calls it is the VAE's thread, whose helper inherits its core."""
        os.sched_setaffinity(0, {self._cores[1]})
        yield from self._backend.decode(latents, state, first=first)


def run(arguments: Arguments) -> Report:
    """The report; a round is printed as it comes."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise InputError("This process has one core: two stages need two.")
    cpu = torch.device("cpu")
    if arguments.folder is None:
        backend = random_backend("tiny", CONFIGS["tiny"].rollout, "f32", cpu, cpu)
    else:
        backend = load_backend(arguments.folder, dit_device="cpu", vae_device="cpu")
    torch.set_num_threads(1)
    picture = np.random.default_rng(0).integers(0, 256, (*backend.size, 3)).astype(np.uint8)
    pair = cores[0], cores[1]
    kinds = [Pinned(WithoutVae(backend), pair), Pinned(backend, pair, denoises=False), Pinned(backend, pair)]
    engines = list(map(StreamEngine, kinds))
    taken = [[], [], []]
    for engine in engines:
        sustained(engine, picture, speech(), UNMEASURED)
    for _ in range(arguments.rounds):
        for engine, seconds in zip(engines, taken, strict=True):
            seconds.append(seconds_a_chunk(engine, picture, arguments.chunks))
        print(" ".join(f"{1e3 * seconds[-1]:.0f}" for seconds in taken), flush=True)
    return Report(*map(tuple, taken))
