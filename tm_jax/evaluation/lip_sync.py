"""Lip-sync: does the mouth that a deaf reader sees follow the opening that the phonemes asked for?

Pearson's correlation per clip over speaking frames only (silence would give it away: a mouth that merely
rests in pauses already correlates), averaged over clips with a bootstrap interval; the lag of the peak;
the same with other clips' truth as the control.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from tm_jax.evaluation.statistics import Interval, bootstrap, derangement, lag_curve, peak, pearson

LAG_LIMIT = 8
LEAST_SPEAKING_FRAMES = 50
FRAME_SAMPLES = 640


@dataclasses.dataclass(frozen=True)
class LipSync:
    """Lip-sync of a set of clips."""

    correlation: Interval
    """Mean over clips of the correlation over speaking frames, with its 95 % interval."""
    offset: float
    """Frames by which the mouth comes late (negative: early), from the mean lag curve."""
    shuffled: float
    """The mean correlation with other clips' truth: what chance gives."""
    per_clip: tuple[float, ...]
    """Correlation of each clip; nan where it speaks for less than two seconds."""
    curve: tuple[float, ...]
    """Mean correlation at lags −8 … 8 frames."""


def correlations(
    read: Float[np.ndarray, "n t"],
    truth: Float[np.ndarray, "n t"],
    mode: Int[np.ndarray, "n t"],
    least_frames: int = LEAST_SPEAKING_FRAMES,
) -> Float[np.ndarray, " n"]:
    """Correlation of each clip over its speaking frames; nan where there are too few."""
    values = np.full(len(read), np.nan)
    for clip in range(len(read)):
        speaking = mode[clip] == 1
        if speaking.sum() >= least_frames:
            values[clip] = pearson(read[clip, speaking], truth[clip, speaking])
    return values


def shuffled_correlation(
    read: Float[np.ndarray, "n t"],
    truth: Float[np.ndarray, "n t"],
    mode: Int[np.ndarray, "n t"],
    rounds: int = 20,
) -> float:
    """Mean correlation of readings with the truth of other clips, where both speak."""
    if len(read) < 2:
        return float("nan")
    means = []
    for seed in range(rounds):
        other = derangement(len(read), seed)
        both = (mode * mode[other]).astype(mode.dtype)
        values = correlations(read, truth[other], both)
        if np.isfinite(values).any():
            means.append(np.nanmean(values))
    return float(np.mean(means)) if means else float("nan")


def lip_sync(
    read: Float[np.ndarray, "n t"], truth: Float[np.ndarray, "n t"], mode: Int[np.ndarray, "n t"]
) -> LipSync:
    """Lip-sync of n clips: the openings read from frames against the true ones; mode is 1 where speaking."""
    per_clip = correlations(read, truth, mode)
    curves = [
        lag_curve(read[clip], truth[clip], mode[clip] == 1, LAG_LIMIT)
        for clip in np.flatnonzero(np.isfinite(per_clip))
    ]
    curve = np.nanmean(curves, axis=0) if curves else np.full(2 * LAG_LIMIT + 1, np.nan)
    return LipSync(
        correlation=bootstrap(per_clip),
        offset=peak(curve) if curves else float("nan"),
        shuffled=shuffled_correlation(read, truth, mode),
        per_clip=tuple(per_clip.tolist()),
        curve=tuple(curve.tolist()),
    )


def audio_envelope(audio: Float[np.ndarray, "n s"], frames: int) -> Float[np.ndarray, "n t"]:
    """Root mean square of the sound of each video frame (640 samples at 16 kHz and 25 fps).

    The control for a mouth that only follows loudness.
    """
    needed = frames * FRAME_SAMPLES
    padded = np.pad(audio, ((0, 0), (0, max(0, needed - audio.shape[1]))))[:, :needed]
    return np.sqrt((padded.reshape(len(audio), frames, FRAME_SAMPLES).astype(np.float64) ** 2).mean(-1))
