import numpy as np
import pytest

from tm_jax.evaluation.statistics import (
    RunningCorrelation,
    Subspace,
    bootstrap,
    derangement,
    frechet_distance,
    lag_curve,
    peak,
    pearson,
)


def test_pearson_agrees_with_numpy_and_gives_nothing_to_a_constant(rng):
    a = rng.normal(size=200)
    b = 0.6 * a + rng.normal(size=200)
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)
    assert pearson(a, -3 * a + 1) == pytest.approx(-1)
    assert pearson(a, np.full(200, 0.3)) == 0
    assert np.isnan(pearson(a[:1], b[:1]))


@pytest.mark.parametrize("lag", [-5, 0, 3])
def test_a_shifted_signal_peaks_at_its_lag(rng, lag):
    truth = np.convolve(rng.normal(size=210), np.ones(4) / 4, "valid")
    read = np.roll(truth, lag) + 0.05 * rng.normal(size=truth.size)
    keep = np.zeros(truth.size, bool)
    keep[20:180] = True
    curve = lag_curve(read, truth, keep, 8)
    assert abs(peak(curve) - lag) < 0.3
    assert curve.max() > 0.95


def test_peak_is_refined_between_frames():
    lags = np.arange(-8, 9)
    assert peak(-((lags - 1.4) ** 2.0)) == pytest.approx(1.4)
    assert peak(lags.astype(float)) == 8


def test_bootstrap_covers_the_mean_and_ignores_nan(rng):
    values = rng.normal(2, 1, 400)
    interval = bootstrap(np.append(values, np.nan))
    assert interval.count == 400
    assert interval.mean == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert np.isnan(bootstrap(np.array([np.nan])).mean)


def test_nobody_meets_itself():
    for seed in range(20):
        partner = derangement(7, seed)
        assert sorted(partner) == list(range(7))
        assert (partner != np.arange(7)).all()


def test_frechet_distance_of_known_gaussians(rng):
    a = rng.normal(size=(40_000, 3)) * [1, 2, 3]
    b = rng.normal(size=(40_000, 3)) * [2, 2, 1] + [1, 0, 0]
    assert frechet_distance(a, b) == pytest.approx(1 + 1 + 0 + 4, rel=0.03)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_the_subspace_counts_what_no_real_clip_shows(rng):
    basis = rng.normal(size=(4, 30))
    real = rng.normal(size=(200, 4)) @ basis + 0.01 * rng.normal(size=(200, 30))
    subspace = Subspace.fit(real, dimensions=4)
    odd = real + rng.normal(size=(200, 30))
    reference = subspace(real)
    assert reference.shape == (200, 5)
    assert subspace(odd)[:, -1].mean() > 5 * reference[:, -1].mean()
    other = rng.normal(size=(200, 4)) @ basis
    assert frechet_distance(subspace(odd), reference) > 3 * frechet_distance(subspace(other), reference)


def test_running_correlation_equals_the_whole(rng):
    a = rng.normal(size=500) + 100
    b = a + rng.normal(size=500)
    running = RunningCorrelation()
    assert np.isnan(running.value())
    for piece in np.split(np.arange(500), [3, 3, 120, 480]):
        running.update(a[piece], b[piece])
    assert running.value() == pytest.approx(pearson(a, b), abs=1e-12)
