import numpy as np
import pytest

from tm_jax.evaluation import quality


@pytest.fixture
def clip(rng):
    """A bright square that moves evenly over a textured background, uint8 [t y x 3]."""
    background = rng.integers(90, 110, (32, 32, 1))
    frames = np.repeat(background[None].astype(np.uint8), 45, axis=0).repeat(3, axis=-1)
    for t in range(45):
        frames[t, 8:20, t // 4 : t // 4 + 12] = 220
    return frames


def blur(frames):
    padded = np.pad(frames.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    total = sum(padded[:, y : y + 32, x : x + 32] for y in range(3) for x in range(3))
    return (total / 9).astype(np.uint8)


def test_units_agree(clip):
    signed = clip.astype(np.float32) / 127.5 - 1
    assert np.allclose(quality.unit(clip), quality.unit(signed), atol=1e-6)
    assert quality.unit(np.full((1, 1, 1, 3), 3.0)).max() == 1


def test_blur_lowers_sharpness_and_noise_raises_it(clip, rng):
    noisy = np.clip(clip + rng.normal(0, 15, clip.shape), 0, 255).astype(np.uint8)
    assert quality.sharpness(blur(clip)) < 0.6 * quality.sharpness(clip)
    assert quality.sharpness(noisy) > 1.2 * quality.sharpness(clip)


def test_flicker_finds_what_alternates(clip):
    shaking = clip.astype(int)
    shaking[::2] += 6
    shaking = np.clip(shaking, 0, 255).astype(np.uint8)
    ratio_of_flicker = quality.flicker(shaking) / quality.flicker(clip)
    ratio_of_motion = quality.motion(shaking) / quality.motion(clip)
    assert ratio_of_flicker > ratio_of_motion > 1
    assert quality.motion(np.repeat(clip[:1], 9, axis=0)) == 0


def test_psnr_of_a_known_error():
    truth = np.zeros((3, 4, 4, 3), np.uint8)
    assert quality.psnr(truth + np.uint8(51), truth) == pytest.approx(-20 * np.log10(0.2), abs=1e-4)


def test_a_jump_at_chunk_borders_is_found(clip):
    smooth = quality.border(clip)
    jumping = clip.astype(int)
    for start in (9, 33):
        jumping[start : start + 12] += 12
    jumping = np.clip(jumping, 0, 255).astype(np.uint8)
    jumps = quality.border(jumping)
    assert jumps.ratio > 3 * smooth.ratio
    assert jumps.inside == pytest.approx(smooth.inside, rel=0.05)
    assert np.isnan(quality.border(clip[:9]).ratio)


def test_borders_lie_where_chunks_begin(clip):
    still = np.repeat(clip[:1], 45, axis=0)
    still[9:] += 5
    found = quality.border(still, chunk=3)
    assert found.inside == 0 and found.at_border > 0
    assert quality.border(still, chunk=7).at_border == 0


def test_blinks_are_counted_once_each():
    eye = np.ones(120)
    for start in (20, 60, 100):
        eye[start : start + 6] = [0.6, 0.2, 0.5, 0.4, 0.5, 0.8]
    assert quality.blinks(eye) == 3
    assert quality.blinks(0.8 * np.ones(50)) == 0


def test_mouth_movement_per_mode(rng):
    mode = np.repeat([1, 0, 1], 50)
    opening = np.where(mode == 1, np.sin(np.arange(150)), 0.02 * np.sin(np.arange(150)))
    listening, speaking = quality.mouth_movement(opening, mode)
    assert listening / speaking == pytest.approx(0.02, rel=0.1)
    assert np.isnan(quality.mouth_movement(opening, np.ones(150, int))[0])


def test_a_mouth_still_closing_is_not_movement_while_listening():
    mode = np.repeat([1, 0], 50)
    opening = np.where(np.arange(100) < 53, np.sin(np.arange(100)), 0)
    assert quality.mouth_movement(opening, mode)[0] == 0


def test_velocity_energy_ignores_noise_and_sees_movement(rng):
    t = np.arange(150) / 25
    moving = np.stack([np.sin(2 * t), np.cos(1.5 * t)], axis=1)
    energy = quality.velocity_energy(moving)
    assert quality.velocity_energy(moving + 0.01 * rng.normal(size=moving.shape)) < 1.2 * energy
    assert quality.velocity_energy(2 * moving) == pytest.approx(4 * energy)
    assert quality.velocity_energy(np.ones((150, 2))) == 0


def test_ratios():
    assert quality.geometric_ratio(np.array([2.0, 0.5]), np.ones(2)) == pytest.approx(1)
    assert quality.mean_ratio(np.array([2.0, 0.5]), np.ones(4)) == pytest.approx(1.25)


def test_borders_of_latents_are_told_from_those_of_chunks(clip):
    still = np.repeat(clip[:1], 45, axis=0)
    still[13:] += 5
    found = quality.border(still, chunk=3)
    assert found.at_latent > 0 and found.at_border == found.within == 0
    still[9:] += 5
    assert quality.border(still, chunk=3).at_border > 0
    still[11:] += 5
    assert quality.border(still, chunk=3).within > 0
    assert quality.border(still, chunk=3, skip=[11]).within == 0
