"""Noise that neighbouring chunks share: its distribution, and that training draws what streaming does."""

import jax
import numpy as np
import pytest

from tm_jax.diffusion.noise import TURN, chunk_noises, clip_noises, slow_matrix, stream_noise
from tm_jax.diffusion.rollout import draw_noises
from tm_jax.diffusion.schedule import RolloutConfig

SHAPE = (3, 8, 8, 16)
RHO = 0.7


def test_without_correlation_it_is_the_stream_s_own_noise():
    noises = chunk_noises(5, 2, SHAPE, RolloutConfig())
    assert np.array_equal(noises, [stream_noise(5, 2, step, SHAPE) for step in range(2)])


def test_neighbours_correlate_at_the_first_step_alone_and_what_is_far_apart_does_not():
    noises = np.stack(
        [chunk_noises(5, n, SHAPE, RolloutConfig(correlation=RHO)) for n in range(2 * TURN + 2)]
    )
    flat = noises.reshape(*noises.shape[:2], -1)
    first, second = np.corrcoef(flat[:, 0]), np.corrcoef(flat[:, 1])
    assert np.allclose(np.diag(first, 1), RHO, atol=0.06)
    assert abs(first[0, 2 * TURN]) < 0.06 and abs(np.diag(second, 1)).max() < 0.06
    assert np.allclose(flat.mean(-1), 0, atol=0.06) and np.allclose(flat.std(-1), 1, atol=0.04)


def test_training_draws_the_same_correlations_as_streaming(getkey):
    config = RolloutConfig(correlation=RHO)
    drawn = draw_noises(getkey(), config, (1, (TURN + 4) * 3, *SHAPE[1:]))
    drawn = np.asarray(drawn).reshape(2, TURN + 4, -1)
    weights = slow_matrix(TURN + 4)
    wanted = RHO * weights @ weights.T + (1 - RHO) * np.eye(TURN + 4)
    assert np.allclose(np.corrcoef(drawn[0]), wanted, atol=0.08)
    assert np.allclose(np.corrcoef(drawn[1]), np.eye(TURN + 4), atol=0.08)
    streamed = clip_noises(3, TURN + 4, SHAPE, config).reshape(2, TURN + 4, -1)
    assert np.allclose(np.corrcoef(streamed[0]), wanted, atol=0.08)


def test_a_correlation_of_one_is_refused():
    with pytest.raises(ValueError, match="below 1"):
        RolloutConfig(correlation=1.0)


def test_the_key_decides(getkey):
    config, key = RolloutConfig(correlation=RHO), getkey()
    once, again = (draw_noises(key, config, (2, 6, 1, 1, 4)) for _ in range(2))
    assert once.shape == (2, 2, 6, 1, 1, 4) and np.array_equal(once, again)
    assert not np.array_equal(once, draw_noises(jax.random.fold_in(key, 1), config, (2, 6, 1, 1, 4)))
