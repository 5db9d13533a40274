"""Which cells of a clip weigh how much: the eyes lie above the mouth, and count only where they shut."""

import jax.numpy as jnp
import numpy as np
import pytest

from tm_jax.diffusion.face_cells import blink_weight, cell_weight, eye_mask, mouth_mask

FACE = jnp.zeros((1, 16, 16)).at[:, 4:12, 3:13].set(1)


def test_eyes_and_mouth_lie_in_the_face_and_apart():
    eyes, mouth = np.asarray(eye_mask(FACE)[0]), np.asarray(mouth_mask(FACE)[0])
    assert np.argwhere(eyes).min(0).tolist() == [6, 5] and np.argwhere(eyes).max(0).tolist() == [7, 10]
    assert not (eyes * mouth).any() and np.argwhere(mouth).min(0)[0] == 8


def test_a_shut_eye_weighs_as_told_and_an_open_one_like_the_face():
    lids = jnp.asarray([[0.0, 0.5, 1.0]])
    weight = np.asarray(cell_weight(FACE, 2.0, 6.0) + blink_weight(FACE, lids, 2.0, 20.0))[0, ..., 0]
    assert weight[:, 6, 7].tolist() == pytest.approx([2, 11, 20])
    assert weight[:, 10, 7].tolist() == pytest.approx([6, 6, 6])
    assert weight[:, 0, 0].tolist() == pytest.approx([1, 1, 1])
