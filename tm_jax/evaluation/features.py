"""Clip features and the Fréchet distance between sets of clips.

A window of 1.4 seconds is described by the mean and the spread over time of the reader's features and of
their frame-to-frame differences (how it looks and how it moves).  A window, not a whole clip, so that
60–100 clips give a few hundred samples; a subspace fitted on real clips brings them down to a size whose
covariance can be estimated.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tm_jax.evaluation.statistics import Subspace, frechet_distance

WINDOW = 36


def window_features(
    features: Float[np.ndarray, "n t d"], window: int = WINDOW
) -> Float[np.ndarray, "windows four_d"]:
    """[mean, spread, mean |change|, spread of change] of each whole window; one window if t is shorter."""
    clips, length, width = features.shape
    window = min(window, length)
    count = length // window
    cut = np.asarray(features[:, : count * window], np.float64).reshape(clips * count, window, width)
    change = np.diff(cut, axis=1)
    return np.concatenate([cut.mean(1), cut.std(1), np.abs(change).mean(1), change.std(1)], axis=1)


@dataclasses.dataclass(frozen=True)
class RealClips:
    """Real clips as the yardstick of the Fréchet distance."""

    subspace: Subspace
    samples: Float[np.ndarray, "windows k"]

    @classmethod
    def of(cls, pieces: Sequence[np.ndarray], dimensions: int = 24) -> "RealClips":
        """From the reader's features [n t d] of the true clips that are imitated, piece by piece.

        The same characters on both sides: the draw of identities then adds nothing to the distance.
        """
        windows = np.concatenate([window_features(piece) for piece in pieces])
        subspace = Subspace.fit(windows, dimensions)
        return cls(subspace, subspace(windows))

    def distance(self, pieces: Sequence[np.ndarray]) -> float:
        """Fréchet distance per dimension: 0 for the same distribution."""
        samples = self.subspace(np.concatenate([window_features(piece) for piece in pieces]))
        return frechet_distance(samples, self.samples) / samples.shape[1]
