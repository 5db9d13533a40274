"""Both engines with the same student on the same machine, in turn: how long a chunk takes.

python -m tm_jax.export tm_jax/weights --to out/export
python -m tm_jax.bench engines --export out/export
"""

import dataclasses
import statistics
from pathlib import Path

from tm_jax.bench.serving_measure import seconds_a_chunk
from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS, ShippedPath
from tm_jax.media.picture import load_picture
from tm_jax.rates import FRAMES_PER_SECOND
from tm_jax.streaming import parts
from tm_jax.torch_runtime import engine

PICTURE = Path(__file__).parent.parent / "assets" / "photo.png"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Time chunks of a student by JAX and of its export by PyTorch."""

    export: Path
    """An export of the student."""
    weights: ShippedPath = WEIGHTS
    """Folder of the student."""
    chunks: int = 20
    """Chunks of a measurement, after three that are not measured."""
    rounds: int = 5
    """Times that each engine is measured, in turn."""

    def __post_init__(self):
        if min(self.chunks, self.rounds) < 1:
            raise InputError("--chunks and --rounds must be at least 1.")


@dataclasses.dataclass(frozen=True)
class Report:
    """Seconds a chunk, one of each round."""

    jax: tuple[float, ...]
    torch: tuple[float, ...]
    length: float
    """Seconds of video of a chunk."""

    @property
    def ratio(self) -> float:
        """How many times as fast PyTorch's engine is; the median of the rounds."""
        return statistics.median(one / other for one, other in zip(self.jax, self.torch, strict=True))

    @property
    def within_bound(self) -> bool:
        """Whether PyTorch's engine takes no longer than JAX's, and no longer than the video is."""
        return self.ratio >= 1 and statistics.median(self.torch) <= self.length

    def __str__(self) -> str:
        pairs = zip(self.jax, self.torch, strict=True)
        rows = [f"| {1e3 * one:.0f} | {1e3 * other:.0f} | {one / other:.2f} |" for one, other in pairs]
        speed = self.length / statistics.median(self.torch)
        return "\n".join(
            [
                "| JAX, ms a chunk | PyTorch | ratio |",
                "|---|---|---|",
                *rows,
                f"median ratio {self.ratio:.2f}; PyTorch at {speed:.1f}× real time",
            ]
        )


def run(arguments: Arguments) -> Report:
    """The report."""
    both = parts.load_engine(arguments.weights), engine.load_engine(arguments.export)
    if both[0].rollout != both[1].rollout or both[0].size != both[1].size:
        raise InputError(f"{arguments.export} is not of the student in {arguments.weights}: export it again.")
    picture, taken = load_picture(PICTURE, both[0].size), ([], [])
    for one in both:
        one.warm_up()
    for _ in range(arguments.rounds):
        for one, seconds in zip(both, taken, strict=True):
            seconds.append(seconds_a_chunk(one, picture, arguments.chunks))
    length = 4 * both[0].rollout.chunk / FRAMES_PER_SECOND
    return Report(tuple(taken[0]), tuple(taken[1]), length)
