"""What tokens read in self-attention, on one device and on several."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tm_jax.nn.cache import ChunkKV
from tm_jax.nn.masks import SparseCausal, dense_mask
from tm_jax.nn.rope import rope_tables, rotate
from tm_jax.nn.self_attention import Tables, read_all, read_cache, read_chunks, share
from tm_jax.sharding import MeshConfig, make_mesh


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


def value_and_gradients(read, arrays, tables, target):
    """What tokens read and the gradients of its product with the target, shared as the mesh in force says."""

    def loss(*arrays):
        out, written = share(read, *arrays, tables, None)
        return jnp.vdot(out, target), (out, written.keys, written.values)

    gradients, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*arrays)
    return *out, *gradients


@pytest.mark.parametrize(
    "heads,columns,collective",
    [(4, 4, "all_to_all"), (3, 4, "all_gather"), (4, 3, None)],
    ids=["heads divide", "heads don't divide", "tokens don't divide"],
)
def test_devices_that_share_tokens_read_the_same(heads, columns, collective, getkey, relative_error):
    *arrays, tables = drawn(getkey, 4, 1, columns, heads=heads)
    target = jax.random.normal(getkey(), arrays[0].shape)
    mesh = make_mesh(MeshConfig(data=2, fsdp=1, context=4))
    for read in (
        partial(read_all, backend="xla"),
        partial(read_chunks, places=(0, 1, 2, 3), backend="xla"),
    ):
        single = value_and_gradients(read, arrays, tables, target)
        with jax.set_mesh(mesh):
            shared = value_and_gradients(read, arrays, tables, target)
            traced = str(
                jax.make_jaxpr(lambda *arrays, read=read: share(read, *arrays, tables, None))(*arrays)
            )
        for ours, alone in zip(shared, single, strict=True):
            assert relative_error(ours, alone) < 1e-5
        for name in ("all_to_all", "all_gather"):
            assert (name in traced) == (name == collective)


def test_a_stream_s_cache_is_split_by_heads(getkey, relative_error):
    """A chunk reads as much of the cache as its length says, each device its own heads of all tokens."""
    *arrays, tables = drawn(getkey, 2, 1, 4, heads=4)
    *cache, old = drawn(getkey, 4, 1, 4, heads=4)
    remembered = ChunkKV(*(x.reshape(2, 16, 4, 12) for x in cache[1:]))
    stand = Tables(tables.own, old.own)
    read = partial(read_cache, backend="xla")
    run = jax.jit(lambda lengths: share(read, *arrays, stand, remembered, lengths))
    single = [run(jnp.full((2,), length)) for length in (8, 16, 24)]
    with jax.set_mesh(make_mesh(MeshConfig(data=1, fsdp=2, context=2, tensor=2))):
        shared = [run(jnp.full((2,), length)) for length in (8, 16, 24)]
    assert shared[0][1].keys.addressable_shards[0].data.shape == (1, 8, 1, 12)
    for ours, alone in zip(jax.tree.leaves(shared), jax.tree.leaves(single), strict=True):
        assert relative_error(ours, alone) < 1e-5
    assert relative_error(single[0][0], single[1][0]) > 1e-2
