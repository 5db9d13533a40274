"""What a stream hands out, how fast it was and what it takes: the same for every engine."""

import collections
import dataclasses
import math
import resource
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from tm_jax.rates import FRAMES_PER_SECOND

RECENT_CHUNKS = 8192


@dataclasses.dataclass(frozen=True)
class ChunkTiming:
    """When a chunk, or a piece of one, was made, in seconds."""

    queued: float
    """From when the last block of its sound was pushed until the DiT stage took it up."""
    dit: float
    """Denoising."""
    vae: float
    """Decoding."""
    first: float
    """From when the DiT stage took it up until its first frames were there."""
    total: float
    """From when the DiT stage took it up until its frames were there; waiting between stages counts."""
    elapsed: float
    """From the start of the stream until its frames were there."""


@dataclasses.dataclass(frozen=True)
class StreamChunk:
    """A chunk of video, or a piece of one, with the sound that plays with it."""

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
    last: bool = True
    """Whether the chunk ends here; False only for pieces."""


def join(pieces: Sequence[StreamChunk]) -> StreamChunk:
    """A whole chunk from all its pieces, with the times of the last."""
    frames = np.concatenate([piece.frames for piece in pieces])
    audio = np.concatenate([piece.audio for piece in pieces])
    return dataclasses.replace(pieces[-1], frames=frames, audio=audio)


def resident_bytes() -> int:
    """Memory of this process now (its peak where the system tells only that)."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Statistics:
    """Speed of a stream; percentiles are over the last hour."""

    def __init__(self):
        self.frames, self.chunks = 0, 0
        self.first_frame, self.elapsed = math.nan, math.nan
        self._recent: collections.deque[ChunkTiming] = collections.deque(maxlen=RECENT_CHUNKS)

    def add(self, chunk: StreamChunk) -> None:
        """Count a chunk, or a piece of one."""
        timing = chunk.timing
        if not self.frames:
            self.first_frame = timing.elapsed - (timing.total - timing.first)
        self.frames, self.elapsed = self.frames + len(chunk.frames), timing.elapsed
        if chunk.last:
            self.chunks += 1
            self._recent.append(timing)

    def percentile(self, stage: str, percent: int) -> float:
        """A percentile of one of `ChunkTiming`'s times in seconds a chunk, such as ``total``."""
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
            for stage in ("queued", "dit", "vae", "first", "total")
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
