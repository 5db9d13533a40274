"""Bands, blinks and glances on tracks whose figures are known."""

import numpy as np
import pytest

from tm_jax.evaluation import movement

T = np.arange(150) / 25


def energy(frequency, amplitude=1.0):
    """Mean square change per frame of a sine."""
    return 2 * (amplitude * np.sin(np.pi * frequency / 25)) ** 2


@pytest.mark.parametrize(
    "frequency,inside,outside", [(0.8, movement.SLOW, movement.FAST), (4, movement.FAST, movement.SLOW)]
)
def test_a_sine_lies_in_its_band(frequency, inside, outside):
    wave = np.sin(2 * np.pi * frequency * T + 0.3)
    assert movement.band_energy(wave, inside) == pytest.approx(energy(frequency), rel=0.05)
    assert movement.band_energy(wave, outside) < 0.03 * energy(frequency)
    both = np.stack([wave, 2 * wave], axis=1)
    assert movement.band_energy(both, inside) == pytest.approx(5 * energy(frequency), rel=0.05)


def test_a_jump_at_a_cut_is_no_movement():
    step = np.where(np.arange(150) < 75, 0.0, 3.0)
    assert movement.band_energy(step, movement.SLOW) > 0
    assert movement.band_energy(step, movement.SLOW, cuts=[75]) == 0
    assert np.isnan(movement.band_energy(step[:20], movement.SLOW))


def test_the_windows_of_a_teacher_are_long_enough():
    wave = np.sin(2 * np.pi * T)
    found = movement.band_energy(wave, movement.SLOW, cuts=[45, 81, 117])
    assert found == pytest.approx(energy(1), rel=0.15)


def test_the_reader_s_error_is_taken_off_both_sides(rng):
    noise = lambda: 0.3 * rng.normal(size=(150, 1))
    of = lambda tracks: np.array([movement.band_energy(track, movement.SLOW) for track in tracks])
    wave = np.sin(2 * np.pi * T)[:, None]
    real, error = of([wave + noise() for _ in range(60)]), of([noise() for _ in range(60)])
    half = of([0.5 * wave + noise() for _ in range(60)])
    assert movement.less_error(real, real, error) == pytest.approx(1)
    assert movement.less_error(half, real, error) == pytest.approx(0.25, abs=0.05)
    assert movement.less_error(error, real, error) == 0
    assert np.isnan(movement.less_error(real, error, error))


def test_half_lids_are_told_from_blinks():
    blink, half = [0.75, 0.3, 0.02, 0.1, 0.6, 0.75], [0.75, 0.65, 0.5, 0.6, 0.75, 0.78]
    eye = np.array([1.0] * 20 + blink + [1.0] * 20 + half + [1.0] * 20)
    assert movement.lid_events(eye).tolist() == [0.02, 0.5]
    assert movement.half_lids(np.stack([eye, np.ones(72)])) == 0.5
    assert np.isnan(movement.half_lids(np.ones((1, 72))))


def test_no_glance_is_read_through_shut_lids():
    gaze = np.stack([np.linspace(0, 1, 50), np.zeros(50)], axis=1)
    eye = np.ones(50)
    eye[20:24] = 0.1
    wild = gaze.copy()
    wild[19:25] += 5
    assert np.allclose(movement.held_over_blinks(wild, eye), gaze)
    assert movement.held_over_blinks(wild, np.ones(50)) is wild
