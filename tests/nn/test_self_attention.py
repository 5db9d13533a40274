"""What tokens read in self-attention, on one device and on several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tm_jax.nn.masks import SparseCausal, dense_mask
from tm_jax.nn.rope import rope_tables, rotate
from tm_jax.nn.self_attention import Tables, read_chunks


def drawn(getkey, frames, rows, columns, heads=3, batch=2):
    shape = (batch, frames, rows * columns, heads, 12)
    tables = rope_tables(
        np.arange(frames), rows, columns, head_dim=12, theta=100.0, max_frames=frames
    ).reshape(frames, rows * columns, 12)
    return *(jax.random.normal(getkey(), shape) for _ in range(3)), Tables(tables)


@pytest.mark.parametrize("chunks,chunk,columns", [(1, 3, 2), (2, 1, 3), (7, 3, 4), (5, 7, 1)])
def test_reading_chunks_equals_the_masked_attention(chunks, chunk, columns, getkey, relative_error):
    frames = chunks * chunk
    query, key, value, tables = drawn(getkey, frames, 1, columns)
    read = lambda q, k, v: read_chunks(
        q, k, v, tables.own, tables, None, places=tuple(range(chunks)), backend="xla"
    )
    mask = jnp.asarray(dense_mask(SparseCausal(chunk), frames, columns))[None, None]

    def masked(q, k, v):
        flat = lambda x: x.reshape(x.shape[0], -1, *x.shape[3:])
        turned = lambda x: rotate(flat(x), tables.own.reshape(-1, 12))
        return jax.nn.dot_product_attention(turned(q), turned(k), flat(v), mask=mask)

    target = jax.random.normal(getkey(), masked(query, key, value).shape)
    both = []
    for function in (read, masked):
        loss = lambda *args, function=function: jnp.vdot(function(*args), target)
        both.append((function(query, key, value), *jax.jit(jax.grad(loss, (0, 1, 2)))(query, key, value)))
    for ours, dense in zip(*both, strict=True):
        assert relative_error(ours, dense) < 1e-5
