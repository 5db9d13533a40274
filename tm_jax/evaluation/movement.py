"""How head, lids and gaze move: energies by band of frequency, and what a blink looks like.

The energy of a band is the mean square of a track's frame-to-frame change between two frequencies, in the
reader's units.  A reader of single frames adds an error of its own to every frame: half of what is read of a
true head below 2 Hz, and nearly all of it above.  On true frames that error is known, because the true tracks
are; it is taken off the real and the generated clips alike (``less_error``).  Above 2 Hz nothing would be
left of the real clips, so there the plain ratio is the figure.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tm_jax.rates import FRAMES_PER_SECOND

SLOW = (0.0, 2.0)
"""Hz: where heads move."""
FAST = (2.0, 7.0)
"""Hz: where heads only shake."""
GAZE = (0.0, 4.0)
"""Hz: a glance takes a quarter of a second."""
LIDS = (0.0, 7.0)
"""Hz: a blink takes a quarter of a second too, but its edges are steep."""


def band_energy(
    track: Float[np.ndarray, "t *k"], band: tuple[float, float], cuts: Sequence[int] = ()
) -> float:
    """Mean square of the frame-to-frame change within ``band`` (Hz), over the pieces between ``cuts``.

    All channels are added up.  A periodogram with a Hann window: what lies at the edge of a band is shared.
    Pieces of less than a second count nothing; nan where all are.
    """
    track = np.asarray(track, np.float64).reshape(len(track), -1)
    energies, lengths = [], []
    for piece in np.split(track, list(cuts)):
        change = np.diff(piece, axis=0)
        if len(change) < FRAMES_PER_SECOND:
            continue
        window = np.hanning(len(change) + 2)[1:-1, None]
        power = np.square(np.abs(np.fft.rfft(change * window, axis=0))).sum(1)
        frequency = np.fft.rfftfreq(len(change), 1 / FRAMES_PER_SECOND)
        # Every frequency but the first (and the last of an even length) stands for two.
        twice = np.full(len(power), 2.0)
        twice[0] = 1
        if len(change) % 2 == 0:
            twice[-1] = 1
        inside = (frequency >= band[0]) & (frequency < band[1])
        energies.append((twice * power)[inside].sum() / len(change) / np.square(window).sum())
        lengths.append(len(change))
    return float(np.average(energies, weights=lengths)) if energies else float("nan")


def less_error(
    energy: Float[np.ndarray, " n"], real: Float[np.ndarray, " n"], error: Float[np.ndarray, " n"]
) -> float:
    """Energy over the real clips' energy, both less the reader's error; means over clips.

    nan where the real clips have no energy beyond the error.
    """
    bottom = float(np.nanmean(real) - np.nanmean(error))
    return max(0.0, float(np.nanmean(energy) - np.nanmean(error))) / bottom if bottom > 0 else float("nan")


def held_over_blinks(
    gaze: Float[np.ndarray, "t k"], eye: Float[np.ndarray, " t"], shut: float = 0.6
) -> Float[np.ndarray, "t k"]:
    """Gaze with straight lines where the eye is shut, and a frame to both sides: none can be read there."""
    hidden = np.convolve(eye < shut, np.ones(3), "same") > 0
    if hidden.all() or not hidden.any():
        return gaze
    seen, frames = np.flatnonzero(~hidden), np.arange(len(eye))
    return np.stack([np.interp(frames, seen, column[seen]) for column in gaze.T], axis=1)


def lid_events(
    eye: Float[np.ndarray, " t"], starts: float = 0.7, ends: float = 0.8
) -> Float[np.ndarray, " events"]:
    """How far open (0 shut … 1 open) the eye still is at the lowest point of each closing of the lids.

    A closing begins where the eye falls below ``starts`` and is over when it has passed ``ends``.
    """
    lowest, inside = [], False
    for value in eye:
        if inside:
            lowest[-1] = min(lowest[-1], float(value))
            inside = value < ends
        elif value < starts:
            lowest.append(float(value))
            inside = True
    return np.array(lowest)


def half_lids(eyes: Float[np.ndarray, "n t"], shut: float = 0.35) -> float:
    """Share of the lids' closings, over all clips, that never shut the eye; nan without any."""
    lowest = np.concatenate([lid_events(eye) for eye in eyes])
    return float(np.mean(lowest > shut)) if len(lowest) else float("nan")
