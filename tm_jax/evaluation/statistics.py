"""The few statistics that every measure shares: correlation, lag, bootstrap, Fréchet distance.

Plain NumPy in float64; nothing here knows of faces or sound.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int


def pearson(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Pearson's correlation; 0 where either signal is constant, since it then predicts nothing."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.size < 2:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 1e-12 * max(1, a.size) else 0.0


def lag_curve(
    read: Float[np.ndarray, " t"], truth: Float[np.ndarray, " t"], keep: Bool[np.ndarray, " t"], limit: int
) -> Float[np.ndarray, " lags"]:
    """Correlation of read[t + lag] with truth[t] for lag = −limit … limit, over the kept t.

    A peak at a positive lag means that the reading comes late.  Every lag uses the same kept frames at
    least ``limit`` from both ends, so that the lags are compared on equal terms.
    """
    frames = np.flatnonzero(keep)
    frames = frames[(frames >= limit) & (frames < len(read) - limit)]
    return np.array([pearson(read[frames + lag], truth[frames]) for lag in range(-limit, limit + 1)])


def peak(curve: Float[np.ndarray, " lags"]) -> float:
    """The lag of a curve's maximum, refined by a parabola through its neighbours."""
    curve = np.asarray(curve, np.float64)
    limit = len(curve) // 2
    top = int(np.argmax(curve))
    if not 0 < top < len(curve) - 1:
        return float(top - limit)
    left, middle, right = curve[top - 1 : top + 2]
    bend = left - 2 * middle + right
    return float(top - limit + (0.5 * (left - right) / bend if bend < 0 else 0.0))


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int


def bootstrap(
    values: Float[np.ndarray, " n"], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of the finite values with a percentile bootstrap interval over them."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    draws = np.random.default_rng(seed).integers(0, values.size, (resamples, values.size))
    tail = (1 - confidence) / 2
    low, high = np.quantile(values[draws].mean(1), [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high), int(values.size))


def derangement(count: int, seed: int) -> Int[np.ndarray, " count"]:
    """A random pairing in which nobody meets itself."""
    if count < 2:
        raise ValueError("a derangement needs at least two elements")
    order = np.random.default_rng(seed).permutation(count)
    partner = np.empty(count, int)
    partner[order] = np.roll(order, 1)
    return partner


def _square_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def frechet_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """Squared Fréchet distance between Gaussians fitted to two samples.

    ‖μ_a − μ_b‖² + tr(A + B − 2 (A^½ B A^½)^½).  Needs more samples than dimensions to mean anything.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(len(a), len(b)) < 2:
        raise ValueError("a Fréchet distance needs at least two samples on each side")
    mean_gap = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    root = _square_root(cov_a)
    cross = np.linalg.eigvalsh(root @ cov_b @ root)
    overlap = np.sqrt(np.clip(cross, 0, None)).sum()
    return float(max(0.0, mean_gap @ mean_gap + np.trace(cov_a) + np.trace(cov_b) - 2 * overlap))


@dataclasses.dataclass(frozen=True)
class Subspace:
    """Where real clips live: their mean, scale, main directions, and how far off them a clip lies."""

    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    directions: Float[np.ndarray, "d k"]

    @classmethod
    def fit(cls, real: Float[np.ndarray, "n d"], dimensions: int = 24) -> "Subspace":
        """Principal directions of standardised real features; at most a quarter as many as samples."""
        real = np.asarray(real, np.float64)
        mean, deviation = real.mean(0), real.std(0)
        scale = np.maximum(deviation, 1e-3 * deviation.max() + 1e-12)
        _, _, rows = np.linalg.svd((real - mean) / scale, full_matrices=False)
        return cls(mean, scale, rows[: max(1, min(dimensions, len(real) // 4))].T)

    def __call__(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k_plus_1"]:
        """Coordinates in the subspace, and last the distance from it.

        The last one is what makes artefacts count that no real clip shows: principal directions of real
        clips alone are blind to them.
        """
        standard = (np.asarray(features, np.float64) - self.mean) / self.scale
        inside = standard @ self.directions
        outside = np.linalg.norm(standard - inside @ self.directions.T, axis=1, keepdims=True)
        return np.concatenate([inside, outside], axis=1)


@dataclasses.dataclass
class RunningCorrelation:
    """Pearson's correlation of two streams in constant memory."""

    count: int = 0
    mean: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2))
    moment: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((2, 2)))

    def update(self, a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> None:
        """Add n pairs (Chan's pairwise update, exact for any chunking)."""
        block = np.stack([np.asarray(a, np.float64), np.asarray(b, np.float64)])
        added = block.shape[1]
        if added == 0:
            return
        mean = block.mean(1)
        centred = block - mean[:, None]
        gap = mean - self.mean
        total = self.count + added
        self.moment = self.moment + centred @ centred.T + np.outer(gap, gap) * self.count * added / total
        self.mean = self.mean + gap * added / total
        self.count = total

    def value(self) -> float:
        """The correlation so far; nan before two pairs, 0 where either stream is constant."""
        if self.count < 2:
            return float("nan")
        scale = np.sqrt(self.moment[0, 0] * self.moment[1, 1])
        return float(self.moment[0, 1] / scale) if scale > 1e-12 * self.count else 0.0
