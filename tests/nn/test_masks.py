"""Attention patterns, and the RoPE frames of the three roles."""

import jax
import numpy as np
import pytest

from tm_jax.nn.masks import (
    Bidirectional,
    SparseCausal,
    allowed,
    dense_mask,
    positions,
)


def test_a_chunk_reads_the_first_the_previous_and_itself():
    index = np.arange(7)
    picture = """
        1 0 0 0 0 0 0
        1 1 0 0 0 0 0
        1 1 1 0 0 0 0
        1 0 1 1 0 0 0
        1 0 0 1 1 0 0
        1 0 0 0 1 1 0
        1 0 0 0 0 1 1"""
    expected = np.array(picture.split(), int).reshape(7, 7).astype(bool)
    np.testing.assert_array_equal(allowed(index[:, None], index[None]), expected)
    np.testing.assert_array_equal(jax.jit(allowed)(index[:, None], index[None]), expected)


def test_the_dense_mask_repeats_the_pattern_for_every_token():
    mask = dense_mask(SparseCausal(2), frames=6, tokens_per_frame=3)
    assert mask.shape == (18, 18)
    np.testing.assert_array_equal(mask[::6, ::6], [[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    assert mask[:6, :6].all() and not mask[:6, 6:].any()
    assert dense_mask(Bidirectional(), 2, 3).all()


def test_patterns_are_static():
    assert hash(SparseCausal(3)) == hash(SparseCausal(3)) and SparseCausal(3) != SparseCausal(7)
    assert Bidirectional() == Bidirectional()


@pytest.mark.parametrize(
    "chunk,steady",
    [(3, {"first": (0, 1, 2), "previous": (15, 16, 17), "current": (18, 19, 20)}),
     (7, {"first": tuple(range(7)), "previous": tuple(range(7, 14)), "current": tuple(range(14, 21))})],
)  # fmt: skip
def test_positions_follow_the_chunks_and_are_pinned_at_the_end_of_the_trained_range(chunk, steady):
    at = jax.jit(lambda n, role: positions(n, role, chunk=chunk, trained_frames=21), static_argnums=1)
    own = np.arange(chunk)
    for n in range(21 // chunk):
        np.testing.assert_array_equal(at(n, "current"), chunk * n + own)
        np.testing.assert_array_equal(at(n, "first"), own)
        np.testing.assert_array_equal(at(n, "previous"), chunk * max(n - 1, 0) + own)
    for n in (21 // chunk - 1, 21 // chunk, 50, 100_000):
        for role, frames in steady.items():
            np.testing.assert_array_equal(at(n, role), frames)
    np.testing.assert_array_equal(at(np.array([0, 50]), "current"), [own, steady["current"]])


def test_one_compiled_function_serves_every_chunk():
    traced = jax.jit(lambda n: positions(n, "previous", chunk=3, trained_frames=21))
    for n in range(9):
        traced(np.int32(n))
    assert traced._cache_size() == 1


def test_a_trained_range_too_short_for_three_chunks_is_refused():
    with pytest.raises(ValueError, match="do not hold three chunks"):
        positions(0, "current", chunk=8, trained_frames=21)
