"""Rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np

from tm_jax.nn.rope import pair_counts, rope_tables, rotate

SIZES = {"head_dim": 16, "theta": 10000.0, "max_frames": 30}


def test_a_full_size_head_splits_as_wans():
    assert pair_counts(128) == (22, 21, 21)


def test_rotation_keeps_lengths_and_position_zero_keeps_everything(getkey):
    x = jax.random.normal(getkey(), (2, 12, 3, 16))
    turned = rotate(x, rope_tables(np.arange(2), 2, 3, **SIZES))
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])
    assert not np.allclose(turned[:, 1:], x[:, 1:])


def test_products_depend_on_the_distance_in_frames_alone(getkey, relative_error):
    query, key = (jax.random.normal(getkey(), (1, 4, 1, 16)) for _ in range(2))

    def product(query_frame, key_frame):
        turn = lambda x, frame: rotate(x, rope_tables(np.array([frame]), 2, 2, **SIZES))
        return jnp.einsum("blnk,bmnk->bnlm", turn(query, query_frame), turn(key, key_frame))

    assert relative_error(product(20, 17), product(5, 2)) < 1e-5
    assert relative_error(product(20, 16), product(5, 2)) > 1e-3


def test_traced_frames_give_the_same_tables():
    traced = jax.jit(lambda frames: rope_tables(frames, 2, 3, **SIZES))(jnp.array([0, 18, 29]))
    np.testing.assert_array_equal(traced, rope_tables(np.array([0, 18, 29]), 2, 3, **SIZES))
