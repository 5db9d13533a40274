import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from tests.evaluation.conftest import filled
from tm_jax.errors import InputError
from tm_jax.evaluation import reader as reading
from tm_jax.evaluation.reader import Reader, ReaderConfig, identity_distance, read


def test_the_shipped_size_is_small():
    abstract = jax.eval_shape(lambda: Reader(ReaderConfig(), rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) < 600_000


def test_reading_does_not_depend_on_batches_or_dtype(tiny_reader, rng):
    frames = rng.integers(0, 256, (2, 9, 32, 32, 3)).astype(np.uint8)
    whole = read(tiny_reader, frames)
    pieces = read(tiny_reader, frames, batch=4)
    signed = read(tiny_reader, frames.astype(np.float32) / 127.5 - 1)
    assert whole.tracks.shape == (2, 9, len(reading.TRACKS))
    for other in (pieces, signed):
        assert np.allclose(whole.tracks, other.tracks, atol=1e-4)
        assert np.allclose(whole.features, other.features, atol=1e-4)
    assert np.allclose(whole.track("x"), whole.tracks[..., 5])


def test_tracks_come_in_their_units(tiny_reader, rng):
    frames = rng.integers(0, 256, (1, 3, 32, 32, 3)).astype(np.uint8)
    count = len(reading.TRACKS)
    config = dataclasses.replace(tiny_reader.config, track_mean=(0.5,) * count, track_std=(0.2,) * count)
    scaled = filled(lambda: Reader(config, rngs=nnx.Rngs(0)), 0)
    assert np.allclose(read(scaled, frames).tracks, 0.5 + 0.2 * read(tiny_reader, frames).tracks, atol=1e-5)
    head = read(scaled, frames).standard(reading.HEAD)
    assert np.allclose(head[..., 0], read(scaled, frames).track("x") / 0.2)


def test_frames_of_another_size_are_refused(tiny_reader):
    with pytest.raises(InputError, match="33×32"):
        read(tiny_reader, np.zeros((1, 1, 33, 32, 3), np.uint8))


def test_identity_distance_is_zero_to_itself(rng):
    reference = rng.normal(size=6)
    track = np.stack([reference, reference + 2])
    assert identity_distance(track, reference) == pytest.approx([0, 2])
