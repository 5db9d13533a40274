"""Convolutions against XLA's own, forward and gradients, at sizes drawn from the seed."""

import jax
import jax.numpy as jnp
import pytest

from tm_jax.nn.convolution import causal_conv3d, conv2d


def plain_conv2d(x, kernel):
    """XLA's convolution, differentiated by JAX."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("size", [(3, 3), (1, 3), (5, 1)])
def test_conv2d_gradients_are_jax_own(size, getkey, rng, relative_error):
    batch, height, width, inputs, outputs = (int(n) for n in rng.integers(1, 9, 5))
    x = jax.random.normal(getkey(), (batch, height, width, inputs))
    kernel = jax.random.normal(getkey(), (*size, inputs, outputs))
    slope = jax.random.normal(getkey(), (batch, height, width, outputs))
    ours, our_vjp = jax.vjp(conv2d, x, kernel)
    reference, their_vjp = jax.vjp(plain_conv2d, x, kernel)
    assert relative_error(ours, reference) <= 1e-5
    for mine, theirs in zip(our_vjp(slope), their_vjp(slope), strict=True):
        assert relative_error(mine, theirs) <= 1e-5


@pytest.mark.parametrize("stride", [1, 2])
def test_causal_conv3d_is_a_convolution_in_three_dimensions(stride, getkey, rng, relative_error):
    batch, height, width, inputs, outputs = (int(n) for n in rng.integers(1, 7, 5))
    frames = 3 + 2 * int(rng.integers(1, 4))
    x = jax.random.normal(getkey(), (batch, frames, height, width, inputs))
    kernel = jax.random.normal(getkey(), (3, 3, 3, inputs, outputs))
    bias = jax.random.normal(getkey(), (outputs,))

    def reference(x, kernel, bias):
        padding = ((0, 0), (1, 1), (1, 1))
        numbers = ("NDHWC", "DHWIO", "NDHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (stride, 1, 1), padding, dimension_numbers=numbers)
        return y + bias[None, None, None, None]

    ours, our_vjp = jax.vjp(lambda *args: causal_conv3d(*args, stride=stride), x, kernel, bias)
    expected, their_vjp = jax.vjp(reference, x, kernel, bias)
    assert relative_error(ours, expected) <= 1e-5
    slope = jax.random.normal(getkey(), ours.shape)
    for mine, theirs in zip(our_vjp(slope), their_vjp(slope), strict=True):
        assert relative_error(mine, theirs) <= 1e-5


def test_conv2d_keeps_bfloat16(getkey):
    x = jax.random.normal(getkey(), (2, 4, 4, 3), jnp.bfloat16)
    kernel = jax.random.normal(getkey(), (3, 3, 3, 5), jnp.bfloat16)
    slopes = jax.grad(lambda x, k: conv2d(x, k).astype(jnp.float32).sum(), argnums=(0, 1))(x, kernel)
    assert all(slope.dtype == jnp.bfloat16 for slope in slopes)
