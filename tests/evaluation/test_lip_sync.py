import numpy as np
import pytest

from tm_jax.evaluation.lip_sync import audio_envelope, correlations, lip_sync
from tm_jax.evaluation.oracle import OracleConfig, predict, train_oracle, windows


@pytest.fixture
def truth(rng):
    raw = rng.normal(size=(24, 160))
    return np.stack([np.convolve(row, [0.2, 0.3, 0.3, 0.2], "same") for row in raw])


@pytest.fixture
def mode(truth):
    mode = np.ones(truth.shape, int)
    mode[:, 100:130] = 0
    return mode


def test_a_good_mouth_scores_high_and_strangers_do_not(truth, mode, rng):
    result = lip_sync(truth + 0.05 * rng.normal(size=truth.shape), truth, mode)
    assert result.correlation.mean > 0.97
    assert result.correlation.low <= result.correlation.mean <= result.correlation.high
    assert result.correlation.count == 24
    assert abs(result.offset) < 0.2
    assert abs(result.shuffled) < 0.1


def test_a_late_mouth_is_found(truth, mode):
    result = lip_sync(np.roll(truth, 3, axis=1), truth, mode)
    assert result.offset == pytest.approx(3, abs=0.3)
    assert result.correlation.mean < 0.5


def test_a_frozen_mouth_scores_nothing(truth, mode):
    assert lip_sync(np.full(truth.shape, 0.4), truth, mode).correlation.mean == 0


def test_resting_in_silence_earns_nothing(truth, mode, rng):
    truth = np.where(mode == 1, truth + 2, 0)
    read = np.where(mode == 1, rng.normal(size=truth.shape) + 2, 0)
    assert np.corrcoef(read.ravel(), truth.ravel())[0, 1] > 0.4
    assert abs(lip_sync(read, truth, mode).correlation.mean) < 0.1


def test_clips_that_hardly_speak_are_left_out(truth, mode):
    mode[0] = 0
    mode[0, :20] = 1
    values = correlations(truth, truth, mode)
    assert np.isnan(values[0])
    assert np.isfinite(values[1:]).all()


def test_the_envelope_is_the_loudness_of_each_frame():
    audio = np.zeros((1, 640 * 3))
    audio[0, 640:1280] = 0.5
    assert audio_envelope(audio, 4)[0] == pytest.approx([0, 0.5, 0, 0])


def test_the_oracle_hears_what_the_sound_tells(rng):
    """Loudness of noise follows the opening, so a regressor of log-mel windows can recover it."""
    config = OracleConfig(left=2, right=1, hidden=16, steps=150, batch_size=64)

    def clip(frames=100):
        opening = np.clip(np.convolve(rng.normal(0.5, 0.6, frames), np.ones(3) / 3, "same"), 0, 1)
        return 0.3 * rng.normal(size=640 * frames) * np.repeat(opening, 640), opening

    sounds, openings = zip(*[clip() for _ in range(6)], strict=True)
    oracle = train_oracle(list(sounds), list(openings), config)
    sound, opening = clip()
    predicted = predict(oracle, sound[None], len(opening), config)[0]
    assert np.corrcoef(predicted, opening)[0, 1] > 0.85


def test_windows_look_where_they_say(rng):
    config = OracleConfig(left=4, right=1)
    audio = 0.1 * rng.normal(size=640 * 20)
    changed = audio.copy()
    changed[640 * 10 :] = 0
    same = (windows(audio, 20, config) == windows(changed, 20, config)).all(1)
    assert same[:9].all() and not same[9] and not same[10]
    assert windows(audio[: 640 * 5], 20, config).shape == (20, 7 * 80)
