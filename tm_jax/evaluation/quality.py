"""What a viewer notices besides the lips: flicker, sharpness, motion, blinks, chunk borders.

Pictures are measured on luma; energies are mean squares, so that a ratio of 1.1 means 10 % more energy.
Movements of head and eyes are measured on what the reader reads, smoothed over five frames, because
the unsmoothed difference of two readings is mostly the reader's own noise.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from tm_jax.rates import FRAMES_PER_SECOND

_SMOOTH = np.array([1, 4, 6, 4, 1]) / 16


def unit(frames: Shaped[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape 3"]:
    """Frames in [0, 1]: from uint8, or from floats in [−1, 1], clipped."""
    if frames.dtype == np.uint8:
        return frames.astype(np.float32) / 255
    return np.clip((np.asarray(frames, np.float32) + 1) / 2, 0, 1)


def luma(frames: Shaped[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape"]:
    """Brightness in [0, 1]."""
    return unit(frames) @ np.array([0.299, 0.587, 0.114], np.float32)


def sharpness(frames: Shaped[np.ndarray, "t y x 3"]) -> float:
    """Mean gradient energy: twice as steep an edge has twice as much."""
    grey = luma(frames)
    down, right = np.diff(grey, axis=1), np.diff(grey, axis=2)
    return float((down**2).mean() + (right**2).mean())


def motion(frames: Shaped[np.ndarray, "t y x 3"]) -> float:
    """Mean square of the difference between consecutive frames."""
    return float((np.diff(luma(frames), axis=0) ** 2).mean())


def flicker(frames: Shaped[np.ndarray, "t y x 3"]) -> float:
    """Mean square of the second difference over time: what goes back and forth, not what moves on."""
    return float((np.diff(luma(frames), n=2, axis=0) ** 2).mean())


def psnr(frames: Shaped[np.ndarray, "t y x 3"], truth: Shaped[np.ndarray, "t y x 3"]) -> float:
    """Peak signal-to-noise ratio of a whole clip in dB, over all three colours."""
    error = float(((unit(frames) - unit(truth)) ** 2).mean(dtype=np.float64))
    return float(-10 * np.log10(max(error, 1e-12)))


@dataclasses.dataclass(frozen=True)
class Border:
    """Mean frame-to-frame differences at borders of chunks, at borders of other latents, within latents."""

    at_border: float
    at_latent: float
    within: float
    inside: float
    """Everywhere but at chunk borders."""

    @property
    def ratio(self) -> float:
        """How much larger the jump at a chunk border is than the steps inside chunks."""
        return self.at_border / max(self.inside, 1e-12)


def border(frames: Shaped[np.ndarray, "t y x 3"], chunk: int = 3, skip: Sequence[int] = ()) -> Border:
    """Frame differences at the borders of chunks of ``chunk`` latent frames, and of their latents.

    The first chunk holds 4·chunk − 3 pixel frames, every later one 4·chunk; the first latent one, every later
    one four.  The step into each frame of ``skip`` counts nowhere.
    """
    steps = np.abs(np.diff(luma(frames), axis=0)).mean((1, 2))
    first_of_chunk = np.arange(4 * chunk - 3, len(frames), 4 * chunk)
    at_border, at_latent = np.zeros(len(steps), bool), np.zeros(len(steps), bool)
    at_border[first_of_chunk - 1] = True
    at_latent[::4] = True
    counted = np.ones(len(steps), bool)
    counted[np.asarray(skip, int) - 1] = False
    groups = (at_border, at_latent & ~at_border, ~at_latent, ~at_border)
    if not (at_border & counted).any():
        return Border(*[float("nan")] * len(groups))
    return Border(*(float(steps[group & counted].mean()) for group in groups))


def velocity_energy(track: Float[np.ndarray, "t *k"]) -> float:
    """Mean square of the frame-to-frame change of a smoothed track (all its channels)."""
    track = np.asarray(track, np.float64).reshape(len(track), -1)
    if len(track) < len(_SMOOTH) + 1:
        return float("nan")
    smooth = np.stack([np.convolve(column, _SMOOTH, "valid") for column in track.T], axis=1)
    return float((np.diff(smooth, axis=0) ** 2).mean())


def blinks(eye: Float[np.ndarray, " t"], closed: float = 0.45, opened: float = 0.65) -> int:
    """Number of blinks: the eye (0 shut … 1 open) falls below ``closed`` and must reopen to count again."""
    count, shut = 0, False
    for value in eye:
        if not shut and value < closed:
            count, shut = count + 1, True
        elif shut and value > opened:
            shut = False
    return count


def mouth_movement(
    opening: Float[np.ndarray, " t"], mode: Int[np.ndarray, " t"], margin: int = 6
) -> tuple[float, float]:
    """Root mean square change per frame of the smoothed opening: (listening, speaking).

    Frames nearer than ``margin`` to a change of mode are left out, where a mouth may still be closing;
    nan for a mode that the clip lacks.
    """
    smooth = np.convolve(np.pad(np.asarray(opening, np.float64), 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    steps = np.diff(smooth) ** 2
    away = ~_near_change(mode, margin)
    values = []
    for wanted in (0, 1):
        keep = (mode[1:] == wanted) & (mode[:-1] == wanted) & away[1:] & away[:-1]
        values.append(float(np.sqrt(steps[keep].mean())) if keep.sum() >= FRAMES_PER_SECOND // 2 else np.nan)
    return values[0], values[1]


def _near_change(mode: Int[np.ndarray, " t"], margin: int) -> Bool[np.ndarray, " t"]:
    near = np.zeros(len(mode), bool)
    for change in np.flatnonzero(np.diff(mode)) + 1:
        near[max(0, change - margin) : change + margin] = True
    return near


def head_statistics(head: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, " 4"]:
    """Spread of x, y and angle over a clip and the root mean square speed, in the reader's units."""
    spread = np.asarray(head, np.float64).std(0)
    return np.array([*spread, np.sqrt(velocity_energy(head))])


def geometric_ratio(values: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"]) -> float:
    """The typical ratio to the paired truth over clips, on a log scale so that 2× and ½× cancel."""
    values, truth = np.asarray(values, np.float64), np.asarray(truth, np.float64)
    keep = np.isfinite(values) & np.isfinite(truth) & (truth > 0)
    if not keep.any():
        return float("nan")
    return float(np.exp(np.log(np.maximum(values[keep], 1e-12) / truth[keep]).mean()))


def mean_ratio(values: Float[np.ndarray, " n"], truth: Float[np.ndarray, " m"]) -> float:
    """Ratio of the means over clips: for what a clip need not share with its truth, such as head motion."""
    bottom = float(np.nanmean(truth))
    return float(np.nanmean(values)) / bottom if bottom > 0 else float("nan")
