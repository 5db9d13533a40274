"""Blocks of sound: what is taken, as what, and the sentence for everything else."""

import numpy as np
import pytest

from tm_jax.audio.blocks import as_block
from tm_jax.errors import InputError


def test_int16_is_scaled_and_floats_stay():
    given = np.array([-32768, 0, 16384, 32767], np.int16)
    made = as_block(given)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, np.array([-1, 0, 0.5, 32767 / 32768], np.float32))
    np.testing.assert_array_equal(as_block(given.astype(">i2")), made)
    for kind in (np.float32, np.float64):
        np.testing.assert_array_equal(
            as_block(np.array([0.25, -3.0], kind)), np.array([0.25, -3], np.float32)
        )
    assert as_block(np.zeros(0, np.int16)).shape == (0,)


def test_a_block_is_a_copy():
    for kind in (np.int16, np.float32):
        given = np.ones(4, kind)
        made = as_block(given)
        given[:] = 0
        assert made.all()


@pytest.mark.parametrize(
    "given,sentence",
    [
        (b"\0\0", "is a bytes"),
        ([0.0, 0.1], "is a list"),
        (None, "is a NoneType"),
        (np.zeros((1, 160), np.float32), r"has the shape \(1, 160\)"),
        (np.zeros((160, 2), np.int16), r"has the shape \(160, 2\)"),
        (np.float32(0), "is a float32"),
        (np.array(0.0), r"has the shape \(\)"),
        (np.zeros(4, np.int32), "holds int32"),
        (np.zeros(4, np.uint8), "holds uint8"),
        (np.zeros(4, np.uint16), "holds uint16"),
        (np.array([0, 9000.0], np.float32), "reaches 9000: divide it by 32768"),
        (np.array([-1e30]), "reaches 1e\\+30"),
        (np.zeros(4, np.float16), "holds float16"),
        (np.zeros(4, bool), "holds bool"),
        (np.zeros(4, object), "holds object"),
        (np.array([0, np.nan], np.float32), "not numbers"),
        (np.array([0, -np.inf]), "not numbers"),
        (np.array([1e300]), "not numbers"),
    ],
)
def test_anything_else_is_one_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence) as refused:
        as_block(given)
    assert "int16" in str(refused.value) and str(refused.value).count("\n") == 0
