"""Which audio tokens a latent frame hears."""

import jax.numpy as jnp
import numpy as np
import pytest

from tm_jax.models.audio_adapter import audio_windows


def numbered(length: int) -> jnp.ndarray:
    """Token i holds the number i + 1, so that zeros are those outside."""
    return jnp.arange(1.0, length + 1)[None, :, None]


@pytest.mark.parametrize("left,lookahead", [(8, 0), (8, 4), (0, 0)])
def test_a_latent_hears_its_own_eight_tokens_and_the_margins(left, lookahead):
    windows = audio_windows(numbered(100), jnp.arange(12), left, lookahead)
    assert windows.shape == (1, 12, left + 8 + lookahead, 1)
    for j in range(12):
        wanted = [token + 1 if token >= 0 else 0 for token in range(8 * j - 6 - left, 8 * j + 2 + lookahead)]
        np.testing.assert_array_equal(windows[0, j, :, 0], wanted)
    own = windows[0, 0, left : left + 8, 0]
    np.testing.assert_array_equal(own, [0, 0, 0, 0, 0, 0, 1, 2])


def test_windows_go_by_absolute_time_across_a_gap_and_per_clip():
    tokens = jnp.concatenate([numbered(400), -numbered(400)])
    frames = jnp.array([[0, 1, 40], [0, 1, 7]])
    windows = audio_windows(tokens, frames, 0, 0)
    np.testing.assert_array_equal(windows[0, 2, :, 0], np.arange(8 * 40 - 6, 8 * 40 + 2) + 1)
    np.testing.assert_array_equal(windows[1, 2, :, 0], -(np.arange(8 * 7 - 6, 8 * 7 + 2) + 1))


def test_beyond_the_end_is_silence():
    windows = audio_windows(numbered(10), jnp.array([1, 2]), 0, 4)
    np.testing.assert_array_equal(windows[0, 0, :, 0], [3, 4, 5, 6, 7, 8, 9, 10, 0, 0, 0, 0])
    assert not windows[0, 1].any()
