"""What may influence what, shown by gradients: exactly zero where it may not, non-zero where it may."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.dit_cases import SMALL, build, inputs
from tm_jax.nn.masks import Bidirectional, SparseCausal

ONE_LAYER = dataclasses.replace(SMALL, layers=1)
SHAPE = {"batch": 1, "frames": 10, "height": 2, "width": 2}


def influence(model, noisy, sigma, conditioning, pattern):
    """For each output frame, the gradients of a random projection of it: noisy, audio, condition [f f …]."""
    direction = jnp.asarray(np.random.default_rng(5).normal(size=noisy.shape), jnp.float32)

    def frames(noisy, audio, condition):
        told = conditioning.replace(audio_tokens=audio, condition=condition)
        return (model(noisy, sigma, told, pattern=pattern) * direction).sum((0, 2, 3, 4))

    args = noisy, conditioning.audio_tokens, conditioning.condition
    gradients = jax.jit(jax.jacrev(frames, (0, 1, 2)))(*args)
    return [np.abs(np.asarray(part)).sum(tuple(range(3, part.ndim)))[:, 0] for part in gradients]


def permitted(frames: int, chunk: int) -> np.ndarray:
    query, key = np.arange(frames)[:, None] // chunk, np.arange(frames)[None] // chunk
    return (key <= query) & ((key == 0) | (key >= query - 1))


@pytest.fixture(scope="module")
def sparse():
    """One layer, so that influence is the mask itself: chunks of 2, five of them."""
    model = build(ONE_LAYER)
    return influence(model, *inputs(ONE_LAYER, np.random.default_rng(0), **SHAPE), SparseCausal(2))


@pytest.fixture(scope="module")
def deep():
    """Two layers: influence reaches further back, never forward."""
    return influence(build(SMALL), *inputs(SMALL, np.random.default_rng(0), **SHAPE), SparseCausal(2))


def test_one_layer_reads_exactly_the_first_previous_and_current_chunk(sparse):
    noisy, _, condition = sparse
    allowed = permitted(10, 2)
    for gradient in (noisy, condition):
        assert not gradient[~allowed].any()
        assert (gradient[allowed] > 0).all()


def test_one_layer_hears_only_its_own_window(sparse):
    _, audio, _ = sparse
    assert not audio[~np.eye(10, dtype=bool)].any()
    assert (np.diag(audio) > 0).all()


def test_layers_carry_the_past_and_never_the_future(deep):
    noisy, audio, condition = deep
    chunk = np.arange(10) // 2
    future = chunk[None] > chunk[:, None]
    near = permitted(10, 2)
    for gradient in (noisy, condition, audio):
        assert not gradient[future].any()
        assert (gradient[near] > 0).all()
    # Two steps of {0, i-1, i} reach i-2 too, and no further but for chunk 0.
    reach = near | (chunk[None] == chunk[:, None] - 2)
    assert (noisy[reach] > 0).all() and not noisy[~reach].any()


def test_bidirectional_frames_all_see_each_other():
    noisy, audio, _ = influence(
        build(SMALL), *inputs(SMALL, np.random.default_rng(0), **SHAPE), Bidirectional()
    )
    assert (noisy > 0).all() and (audio > 0).all()
