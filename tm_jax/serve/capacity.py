"""How many calls this machine can serve: measured, not guessed."""

import dataclasses
import statistics

import numpy as np

from tm_jax.rates import FRAMES_PER_SECOND, SAMPLE_RATE
from tm_jax.streaming.engine import StreamEngine

SHARE = 0.85
"""Of the engine's time that calls may fill; the rest is for codecs and voices."""


@dataclasses.dataclass(frozen=True)
class Capacity:
    """What was measured."""

    chunk_seconds: float
    """Median time between chunks when one stream has the engine for itself, its stages overlapping."""
    video_seconds: float
    """Length of a chunk's video."""

    @property
    def calls(self) -> int:
        """Calls at once; one at least, even where it will skip."""
        return max(1, int(SHARE * self.video_seconds / self.chunk_seconds))

    def __str__(self) -> str:
        speed = f"{self.video_seconds / self.chunk_seconds:.1f}× real time"
        return f"a chunk of {self.video_seconds:.2f} s takes {self.chunk_seconds:.2f} s ({speed})"


def measure(engine: StreamEngine, picture: np.ndarray, seconds: float = 4.0) -> Capacity:
    """Warm the engine up, then time a stream of so many seconds."""
    engine.warm_up()
    sound = np.random.default_rng(0).normal(0, 0.05, int(seconds * SAMPLE_RATE)).astype(np.float32)
    arrivals = [chunk.timing.elapsed for chunk in engine.stream(picture, [sound])]
    gaps = np.diff(arrivals)
    video = 4 * engine.rollout.chunk / FRAMES_PER_SECOND
    return Capacity(statistics.median(gaps) if len(gaps) else arrivals[0], video)
