"""The attention function against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tm_jax.nn.attention import attention


@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_equal_torch(masked, getkey, relative_error):
    query, target = (jax.random.normal(getkey(), (2, 6, 3, 8)) for _ in range(2))
    key, value = (jax.random.normal(getkey(), (2, 9, 3, 8)) for _ in range(2))
    mask = jnp.arange(9)[None, None, None] < 5 if masked else None
    theirs = [torch.from_numpy(np.array(x)).requires_grad_() for x in (query, key, value)]
    reference = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in theirs),
        attn_mask=torch.from_numpy(np.array(mask)) if masked else None,
    ).transpose(1, 2)
    (reference * torch.from_numpy(np.array(target))).sum().backward()
    assert relative_error(attention(query, key, value, mask=mask), reference.detach()) < 1e-6
    gradients = jax.grad(lambda *args: jnp.vdot(attention(*args, mask=mask), target), (0, 1, 2))(
        query, key, value
    )
    for ours, other in zip(gradients, theirs, strict=True):
        assert relative_error(ours, other.grad) < 1e-5


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows_per_block", [1, 3])
def test_blocks_of_rows_change_nothing(masked, rows_per_block, getkey, monkeypatch, relative_error):
    query, target = (jax.random.normal(getkey(), (7, 6, 3, 8)) for _ in range(2))
    key, value = (jax.random.normal(getkey(), (7, 9, 3, 8)) for _ in range(2))
    mask = jax.random.bernoulli(getkey(), 0.7, (7, 1, 1, 9)) if masked else None
    monkeypatch.setattr("tm_jax.nn.attention.BLOCK_BYTES", 4 * 6 * 3 * 9 * rows_per_block)
    both = []
    for backend in ("xla", "blocked"):
        loss = lambda q, k, v, backend=backend: jnp.vdot(
            attention(q, k, v, mask=mask, backend=backend), target
        )
        both.append(jax.value_and_grad(loss, (0, 1, 2))(query, key, value))
    for plain, blocked in zip(*map(jax.tree.leaves, both), strict=True):
        assert relative_error(blocked, plain) < 1e-5


@pytest.mark.parametrize("batch", [4, 3])
def test_blocks_on_eight_devices(batch, mesh8, getkey, monkeypatch, relative_error):
    """Each device loops over its own part of the batch and the heads; what does not divide stays whole."""
    query, target = (jax.random.normal(getkey(), (batch, 6, 4, 8)) for _ in range(2))
    key, value = (jax.random.normal(getkey(), (batch, 9, 4, 8)) for _ in range(2))
    mask = jax.random.bernoulli(getkey(), 0.7, (batch, 1, 1, 9))
    monkeypatch.setattr("tm_jax.nn.attention.BLOCK_BYTES", 4 * 6 * 9)

    def both(backend, **options):
        loss = lambda q, k, v: jnp.vdot(attention(q, k, v, backend=backend, **options), target)
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(query, key, value)

    for options in ({}, {"mask": mask}):
        plain = both("xla", **options)
        with jax.set_mesh(mesh8):
            blocked = both("blocked", **options)
        for one, eight in zip(*map(jax.tree.leaves, (plain, blocked)), strict=True):
            assert relative_error(eight, one) < 1e-5


def test_masked_keys_have_no_influence_at_all(getkey):
    query, key, value = (jax.random.normal(getkey(), (1, 4, 2, 8)) for _ in range(3))
    mask = jnp.array([True, True, False, True])[None, None, None]
    jacobian = jax.jacobian(lambda key, value: attention(query, key, value, mask=mask), (0, 1))(key, value)
    for part in jacobian:
        assert not part[:, :, :, :, :, 2].any() and part[:, :, :, :, :, 1].any()


def test_softmax_of_bfloat16_is_float32(getkey):
    ones = jnp.ones((1, 1, 1, 8), jnp.bfloat16)
    value = jax.random.normal(getkey(), (1, 300, 1, 8)).astype(jnp.bfloat16)
    mean = attention(ones, jnp.ones((1, 300, 1, 8), jnp.bfloat16), value)
    np.testing.assert_allclose(
        mean[0, 0, 0].astype(jnp.float32), value.astype(jnp.float32).mean((0, 1, 2)), atol=2e-3
    )


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match="known are xla, cudnn, blocked"):
        attention(*(jnp.ones((1, 1, 1, 2)),) * 3, backend="flash")
