"""Where clips are cut: at blinks more often, if asked to, and nowhere else otherwise."""

import numpy as np
import pytest

from tm_jax.data.encoded_videos import latent_lids
from tm_jax.data.latent_clips import ClipConfig, clip_frames

LIDS = np.where(np.arange(60) == 40, 1.0, 0.0)


def shares(config: ClipConfig, lids) -> float:
    """Share of clips that hold the blink."""
    drawn = [clip_frames(60, config, np.random.default_rng(seed), lids) for seed in range(200)]
    for frames in drawn:
        assert frames.max() < 60 and len(frames) == config.frames
        assert (frames[: config.chunk] == np.arange(config.chunk)).all() and frames[config.chunk] % 3 == 0
    return float(np.mean([40 in frames for frames in drawn]))


def test_every_clip_holds_the_blink_if_asked_to():
    assert shares(ClipConfig(chunks=4, blinks=1.0), LIDS) == 1
    assert shares(ClipConfig(chunks=4, contiguous=0.0), LIDS) == pytest.approx(3 / 17, abs=0.08)


def test_without_a_blink_or_knowledge_of_it_places_are_as_before():
    plain, config = ClipConfig(chunks=4), ClipConfig(chunks=4, blinks=1.0)
    for lids in (None, np.zeros(60)):
        drawn = [clip_frames(60, config, np.random.default_rng(seed), lids) for seed in range(20)]
        before = [clip_frames(60, plain, np.random.default_rng(seed)) for seed in range(20)]
        assert np.array_equal(drawn, before)


def test_lids_of_a_latent_are_the_furthest_shut_of_its_frames():
    assert latent_lids(np.array([0.1, 0, 0.2, 0.9, 0, 0, 0, 0, 0.3]), 4).tolist() == pytest.approx(
        [0.1, 0.9, 0.3]
    )


def test_a_probability_above_one_is_refused():
    with pytest.raises(ValueError, match="blinks"):
        ClipConfig(blinks=1.5)
