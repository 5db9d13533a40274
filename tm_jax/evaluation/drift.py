"""Does a long stream stay what it was?  First minute against last, in constant memory.

``DriftMeter.update`` takes a stream's frames as they come, in pieces of any size, and keeps one small row
of sums per minute.  Each minute is judged against the reference picture: identity by the reader's
embedding, colour by the mean of each channel, sharpness, motion of head and eyes, lip-sync.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, UInt8

from tm_jax.evaluation.quality import sharpness, unit
from tm_jax.evaluation.reader import EYES, HEAD, Reader, identity_distance, read
from tm_jax.evaluation.statistics import RunningCorrelation
from tm_jax.rates import FRAMES_PER_SECOND

_SMOOTH = np.array([1, 4, 6, 4, 1]) / 16


@dataclasses.dataclass(frozen=True)
class Minute:
    """One minute of a stream."""

    frames: int
    identity: float
    """Mean distance of the embedding from the reference picture's."""
    colour: tuple[float, float, float]
    """Mean of each channel, of 255."""
    sharpness: float
    """Mean gradient energy."""
    head: float
    """Motion energy of the head: mean square of its smoothed velocity, in the reader's units."""
    eyes: float
    """The same of eyes and gaze."""
    lip_sync: float
    """Correlation of read and true opening over speaking frames; nan if nobody speaks."""


@dataclasses.dataclass
class _Sums:
    frames: int = 0
    identity: float = 0.0
    colour: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3))
    sharpness: float = 0.0
    steps: int = 0
    head: float = 0.0
    eyes: float = 0.0
    lips: RunningCorrelation = dataclasses.field(default_factory=RunningCorrelation)

    def minute(self) -> Minute:
        count, steps = max(1, self.frames), max(1, self.steps)
        return Minute(
            frames=self.frames,
            identity=self.identity / count,
            colour=tuple((self.colour / count).tolist()),
            sharpness=self.sharpness / count,
            head=self.head / steps,
            eyes=self.eyes / steps,
            lip_sync=self.lips.value(),
        )


class DriftMeter:
    """Measures a stream minute by minute."""

    def __init__(self, reader: Reader, reference: UInt8[np.ndarray, "y x 3"], seconds: float = 60.0):
        """``reference`` is the picture that the stream started from; ``seconds`` the length of a "minute"."""
        self.reader = reader
        self.reference = read(reader, reference[None, None]).identity[0, 0]
        self.window = round(seconds * FRAMES_PER_SECOND)
        self._sums = [_Sums()]
        self._tail = np.zeros((0, len(HEAD) + len(EYES)))

    def update(
        self,
        frames: UInt8[np.ndarray, "t y x 3"],
        opening: Float[np.ndarray, " t"] | None = None,
        mode: Int[np.ndarray, " t"] | None = None,
    ) -> None:
        """Add the stream's next frames, with the true opening and mode where they are known."""
        start = 0
        while start < len(frames):
            sums = self._sums[-1]
            if sums.frames == self.window:
                self._sums.append(_Sums())
                continue
            stop = min(len(frames), start + self.window - sums.frames)
            piece = slice(start, stop)
            self._add(
                sums,
                frames[piece],
                None if opening is None else opening[piece],
                np.ones(stop - start, int) if mode is None else mode[piece],
            )
            start = stop

    def _add(self, sums: _Sums, frames: np.ndarray, opening: np.ndarray | None, mode: np.ndarray) -> None:
        reading = read(self.reader, frames[None])
        sums.frames += len(frames)
        sums.identity += identity_distance(reading.identity[0], self.reference).sum()
        sums.colour = sums.colour + 255 * unit(frames).mean((1, 2), dtype=np.float64).sum(0)
        sums.sharpness += sharpness(frames) * len(frames)
        if opening is not None:
            sums.lips.update(reading.track("opening")[0][mode == 1], opening[mode == 1])
        # The smoothing reaches across pieces, so the last frames of the piece before are kept.
        track = np.concatenate([self._tail, reading.standard(HEAD + EYES)[0]])
        if len(track) > len(_SMOOTH):
            smooth = np.stack([np.convolve(column, _SMOOTH, "valid") for column in track.T], axis=1)
            energy = np.square(np.diff(smooth, axis=0)).sum(0)
            sums.steps += len(smooth) - 1
            sums.head += energy[: len(HEAD)].mean()
            sums.eyes += energy[len(HEAD) :].mean()
        self._tail = track[-len(_SMOOTH) :]

    def minutes(self) -> list[Minute]:
        """Every minute so far; a last one shorter than half is left out."""
        whole = [sums for sums in self._sums if sums.frames >= max(1, self.window // 2)]
        return [sums.minute() for sums in whole]


@dataclasses.dataclass(frozen=True)
class Drift:
    """Last minute against first."""

    identity_first: float
    identity_last: float
    colour: float
    """Largest shift of a channel's mean, of 255."""
    sharpness: float
    """Ratio last : first, as are head and eyes."""
    head: float
    eyes: float
    lip_sync: float
    """Last minus first."""


def drift(minutes: list[Minute]) -> Drift:
    """Compare the last minute with the first."""
    if len(minutes) < 2:
        raise ValueError("drift needs a stream of at least two minutes")
    first, last = minutes[0], minutes[-1]
    return Drift(
        identity_first=first.identity,
        identity_last=last.identity,
        colour=float(np.abs(np.subtract(last.colour, first.colour)).max()),
        sharpness=last.sharpness / max(first.sharpness, 1e-12),
        head=last.head / max(first.head, 1e-12),
        eyes=last.eyes / max(first.eyes, 1e-12),
        lip_sync=last.lip_sync - first.lip_sync,
    )


def by_minute(
    values: Float[np.ndarray, " chunks"], stamps: Float[np.ndarray, " chunks"], seconds: float = 60.0
) -> list[float]:
    """Median over the chunks of each minute, a chunk belonging to the minute in which it ends."""
    minute = np.maximum(np.ceil(np.asarray(stamps) / seconds).astype(int) - 1, 0)
    return [float(np.median(np.asarray(values)[minute == index])) for index in np.unique(minute)]


def flatness(
    values: Float[np.ndarray, " chunks"], stamps: Float[np.ndarray, " chunks"], seconds: float = 60.0
) -> float:
    """Median of the last ``seconds`` over median of the first: of time per chunk, or of resident memory.

    ``stamps`` say where in the video each chunk lies, in seconds, ascending.  The first five seconds are
    left out, which pay for compilation and warm caches.
    """
    values, stamps = np.asarray(values, np.float64), np.asarray(stamps, np.float64)
    early = values[(stamps >= 5) & (stamps < 5 + seconds)]
    late = values[stamps > stamps[-1] - seconds]
    if not early.size:
        raise ValueError("the stream is too short to compare its first minute with its last")
    return float(np.median(late) / np.median(early))
