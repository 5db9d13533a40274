"""Gains of denoisers whose answers are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation.conftest import SIZE
from tm_jax.audio.log_mel import LogMel
from tm_jax.data.latent_clips import ClipConfig
from tm_jax.evaluation import event_gains as gains


@pytest.fixture(scope="module")
def clips(tiny_vae):
    config = ClipConfig(chunks=4, text_length=2, text_width=4)
    return gains.event_clips(tiny_vae, LogMel(), config, still=False, count=1, size=SIZE)


def test_a_denoiser_that_knows_nothing_has_the_gain_of_what_it_is_given(clips):
    levels = (0.75, 0.25)
    given = gains.gains(lambda noisy, sigma: noisy, clips, levels)
    for name in gains.EVENTS:
        assert given[name] == pytest.approx([0.25, 0.75], abs=1e-3)
    blind = gains.gains(lambda noisy, sigma: jnp.zeros_like(noisy), clips, levels)
    assert all(value == 0 for values in blind.values() for value in values)


def test_a_perfect_denoiser_gains_everything_and_a_timid_one_its_share(clips):
    perfect = gains.gains(lambda noisy, sigma: noisy / (1 - sigma[0]), clips, (0.9, 0.14))
    timid = gains.gains(lambda noisy, sigma: 0.3 * noisy / (1 - sigma[0]) + 5, clips, (0.9,))
    for name in gains.EVENTS:
        assert perfect[name] == pytest.approx([1, 1], abs=1e-2)
        assert timid[name] == pytest.approx([0.3], abs=1e-2)


def test_each_event_changes_the_clip(clips):
    assert clips.conditioning.audio_tokens.shape[:2] == clips.whole.shape[:2]
    for clean in clips.without.values():
        assert not np.array_equal(clean, clips.whole)
