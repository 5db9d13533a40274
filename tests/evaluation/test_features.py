import numpy as np

from tm_jax.evaluation.features import WINDOW, RealClips, window_features


def clips(rng, count=40, speed=1.0, size=1.0):
    """Slowly varying features of dimension 12, each clip round its own mean."""
    walk = np.cumsum(rng.normal(0, 0.1 * speed, (count, 153, 12)), axis=1)
    return size * (rng.normal(size=(count, 1, 12)) + walk - walk.mean(1, keepdims=True))


def test_windows_describe_level_and_change(rng):
    features = clips(rng, 2)
    found = window_features(features)
    assert found.shape == (8, 48)
    first = features[0, :WINDOW]
    change = np.diff(first, axis=0)
    wanted = [*first.mean(0), *first.std(0), *np.abs(change).mean(0), *change.std(0)]
    assert np.allclose(found[0], wanted)
    assert window_features(features[:, :20]).shape == (2, 48)


def test_distance_grows_with_what_is_wrong(rng):
    real = RealClips.of([clips(rng)])
    same = real.distance([clips(rng)])
    jittery = clips(rng) + 0.3 * rng.normal(size=(40, 153, 12))
    frozen = np.repeat(clips(rng)[:, :1], 153, axis=1)
    worse = clips(rng) + 0.6 * rng.normal(size=(40, 153, 12))
    assert real.distance([frozen]) > 3 * same
    assert real.distance([worse]) > real.distance([jittery]) > 3 * same
