"""What a stream hands out, and how fast it was: the same for every engine."""

import collections
import dataclasses
import math

import numpy as np
from jaxtyping import Float32, UInt8

from tm_jax.rates import FRAMES_PER_SECOND

RECENT_CHUNKS = 8192


@dataclasses.dataclass(frozen=True)
class ChunkTiming:
    """When a chunk was made, in seconds."""

    dit: float
    """Denoising."""
    vae: float
    """Decoding."""
    total: float
    """From when the chunk's sound was there until its frames are; waiting between stages counts."""
    elapsed: float
    """From the start of the stream until the chunk's frames are there."""


@dataclasses.dataclass(frozen=True)
class StreamChunk:
    """A piece of video with the sound that plays with it."""

    index: int
    """Number of the chunk."""
    frames: UInt8[np.ndarray, "t y x 3"]
    """Video frames at 25 fps: 9 in the first chunk of 3 latents, then 12, fewer at the end of the sound."""
    audio: Float32[np.ndarray, "s"]
    """16 kHz mono sound of just these frames."""
    mode: np.ndarray
    """0 listening, 1 speaking; one for each latent frame."""
    timing: ChunkTiming
    """How long it took."""


class Statistics:
    """Speed of a stream; percentiles are over the last hour."""

    def __init__(self):
        self.frames, self.chunks = 0, 0
        self.first_frame, self.elapsed = math.nan, math.nan
        self._recent: collections.deque[ChunkTiming] = collections.deque(maxlen=RECENT_CHUNKS)

    def add(self, chunk: StreamChunk) -> None:
        """Count one chunk."""
        if not self.chunks:
            self.first_frame = chunk.timing.elapsed
        self.frames, self.chunks = self.frames + len(chunk.frames), self.chunks + 1
        self.elapsed = chunk.timing.elapsed
        self._recent.append(chunk.timing)

    def percentile(self, stage: str, percent: int) -> float:
        """A percentile of ``dit``, ``vae`` or ``total`` in seconds a chunk."""
        values = [getattr(timing, stage) for timing in self._recent]
        return float(np.percentile(values, percent)) if values else math.nan

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return self.frames / FRAMES_PER_SECOND

    @property
    def fps(self) -> float:
        """Frames made in a second."""
        return self.frames / self.elapsed

    @property
    def times_real_time(self) -> float:
        """Seconds of video made in a second."""
        return self.seconds / self.elapsed

    def summary(self) -> dict[str, float]:
        """All figures by name, in seconds where it is time."""
        stages = {
            f"{stage}_p{percent}": self.percentile(stage, percent)
            for stage in ("dit", "vae", "total")
            for percent in (50, 95)
        }
        whole = {"seconds": self.seconds, "fps": self.fps, "times_real_time": self.times_real_time}
        return {**whole, "first_frame": self.first_frame, **stages}

    def __str__(self) -> str:
        return (
            f"{self.seconds:.2f} s of video in {self.elapsed:.2f} s: {self.fps:.1f} fps, "
            f"{self.times_real_time:.2f}× real time, first frame after {self.first_frame:.2f} s, "
            f"chunk p50 {1e3 * self.percentile('total', 50):.0f} ms, "
            f"p95 {1e3 * self.percentile('total', 95):.0f} ms"
        )
