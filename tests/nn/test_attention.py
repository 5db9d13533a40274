"""The attention function against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tm_jax.nn.attention import attention


def value_and_gradients(backend, query, key, value, target, lengths=None):
    """What attention gives, and the gradients of its product with the target."""

    def loss(query, key, value):
        out = attention(query, key, value, lengths=lengths, backend=backend)
        return jnp.vdot(out, target), out

    gradients, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(query, key, value)
    return out, *gradients


def drawn(getkey, batch, rows, keys, heads=3, size=8):
    query, target = (jax.random.normal(getkey(), (batch, rows, heads, size)) for _ in range(2))
    key, value = (jax.random.normal(getkey(), (batch, keys, heads, size)) for _ in range(2))
    return query, key, value, target


@pytest.mark.parametrize("short", [False, True])
def test_values_and_gradients_equal_torch(short, getkey, relative_error):
    query, key, value, target = drawn(getkey, 2, 6, 9)
    lengths = jnp.array([5, 9]) if short else None
    theirs = [torch.from_numpy(np.array(x)).requires_grad_() for x in (query, key, value)]
    readable = np.arange(9)[None, None, None] < np.array([5, 9])[:, None, None, None]
    reference = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in theirs), attn_mask=torch.from_numpy(readable) if short else None
    ).transpose(1, 2)
    (reference * torch.from_numpy(np.array(target))).sum().backward()
    out, *gradients = value_and_gradients("xla", query, key, value, target, lengths)
    assert relative_error(out, reference.detach()) < 1e-6
    for ours, other in zip(gradients, theirs, strict=True):
        assert relative_error(ours, other.grad) < 1e-5


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("rows_per_block", [1, 3])
def test_blocks_of_rows_change_nothing(short, rows_per_block, getkey, monkeypatch, relative_error):
    arrays = drawn(getkey, 7, 6, 9)
    lengths = jax.random.randint(getkey(), (7,), 1, 10) if short else None
    monkeypatch.setattr("tm_jax.nn.attention.BLOCK_BYTES", 4 * 6 * 3 * 9 * rows_per_block)
    both = [value_and_gradients(backend, *arrays, lengths) for backend in ("xla", "blocked")]
    for plain, blocked in zip(*both, strict=True):
        assert relative_error(blocked, plain) < 1e-5


@pytest.mark.parametrize("rows,keys,lengths", [(136, 128, None), (128, 257, None), (128, 384, (128, 384))])
def test_the_interpreted_splash_kernel_equals_xla(rows, keys, lengths, getkey, relative_error):
    """Whole blocks, picture tokens that fill none, and a stream's cache as far as it is filled."""
    arrays = drawn(getkey, 2, rows, keys, heads=1)
    lengths = None if lengths is None else jnp.array(lengths)
    (out, *ours), (reference, *theirs) = (
        value_and_gradients(backend, *arrays, lengths) for backend in ("splash", "xla")
    )
    assert relative_error(out, reference) < 1e-5
    for gradient, other in zip(ours, theirs, strict=True):
        assert relative_error(gradient, other) < 1e-4


def test_keys_beyond_the_length_have_no_influence_at_all(getkey):
    query, key, value = (jax.random.normal(getkey(), (1, 4, 2, 8)) for _ in range(3))
    read = lambda key, value: attention(query, key, value, lengths=jnp.array([3]))
    for part in jax.jacobian(read, (0, 1))(key, value):
        assert not part[:, :, :, :, :, 3].any() and part[:, :, :, :, :, 2].any()


def test_softmax_of_bfloat16_is_float32(getkey):
    ones = jnp.ones((1, 1, 1, 8), jnp.bfloat16)
    value = jax.random.normal(getkey(), (1, 300, 1, 8)).astype(jnp.bfloat16)
    mean = attention(ones, jnp.ones((1, 300, 1, 8), jnp.bfloat16), value)
    np.testing.assert_allclose(
        mean[0, 0, 0].astype(jnp.float32), value.astype(jnp.float32).mean((0, 1, 2)), atol=2e-3
    )


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match="known are auto, xla, cudnn, splash, blocked"):
        attention(*(jnp.ones((1, 1, 1, 2)),) * 3, backend="flash")
