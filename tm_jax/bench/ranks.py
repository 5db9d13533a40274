"""How fast several ranks denoise together, and that they make what one makes; started by torchrun:

    torchrun --nproc-per-node 5 -m tm_jax.bench ranks --folder out/export       # 4 ranks and one for the VAE

The last rank streams, prints, and does the same with all of the export to itself, on its own device.
"""

import dataclasses
from pathlib import Path

import numpy as np

from tm_jax.bench.serving_measure import UNMEASURED, speech
from tm_jax.errors import InputError
from tm_jax.media.picture import load_picture
from tm_jax.rates import FRAMES_PER_SECOND, SAMPLE_RATE
from tm_jax.streaming.engine import StreamEngine
from tm_jax.torch_runtime.engine import load_engine
from tm_jax.torch_runtime.ranks import rank_and_world, serve_ranks

PICTURE = Path(__file__).parent.parent / "assets" / "photo.png"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Stream an export with several ranks, and with one process."""

    folder: Path
    """An export."""
    chunks: int = 20
    """Chunks that are measured, after three that are not."""
    compare: bool = True
    """Do the same in one process, which the last rank's device must have room for."""

    def __post_init__(self):
        if self.chunks < 1:
            raise InputError(f"--chunks {self.chunks}: measure at least 1.")


def run(arguments: Arguments) -> str:
    """What the last rank found; nothing on the others."""
    engine = serve_ranks(arguments.folder)
    if engine is None:
        return ""
    _, world = rank_and_world()
    together, frames = streamed(engine, arguments.chunks)
    engine.backend.close()
    lines = [f"{world - 1} ranks and one for the VAE: {1e3 * together:.0f} ms a chunk"]
    if arguments.compare:
        alone, expected = streamed(load_engine(arguments.folder), arguments.chunks)
        apart = int(np.abs(frames.astype(int) - expected.astype(int)).max())
        lines += [
            f"one process: {1e3 * alone:.0f} ms a chunk",
            f"largest difference of a pixel in {len(frames)} frames: {apart} of 255",
        ]
    return "\n".join(lines)


def streamed(engine: StreamEngine, chunks: int) -> tuple[float, np.ndarray]:
    """Seconds a chunk, and the frames."""
    count = UNMEASURED + chunks
    seconds = 4 * engine.rollout.chunk * count / FRAMES_PER_SECOND
    sound = np.resize(speech(), int(SAMPLE_RATE * seconds))
    made = list(engine.stream(load_picture(PICTURE, engine.size), [sound], seed=3))
    ends = [chunk.timing.elapsed for chunk in made][UNMEASURED - 1 :]
    return (ends[-1] - ends[0]) / (len(ends) - 1), np.concatenate([chunk.frames for chunk in made])
