"""The KV cache: what is remembered, and at which positions it is read."""

import jax
import jax.numpy as jnp
import numpy as np

from tm_jax.nn.cache import ChunkKV, empty_cache, roll

SIZES = {"layers": 2, "batch": 1, "chunk": 3, "tokens_per_frame": 2, "heads": 1, "head_dim": 4}


def written(n: int) -> ChunkKV:
    whole = jnp.full((2, 1, 6, 1, 4), n + 1.0)
    return ChunkKV(whole, -whole)


def test_the_first_chunk_stays_the_previous_one_changes_and_one_step_serves_all():
    cache = empty_cache(dtype="float32", **SIZES)
    assert not cache.valid.any() and not cache.keys.any()
    step = jax.jit(lambda cache, kv, n: roll(cache, kv, n, trained_frames=21))
    for n in range(12):
        cache = step(cache, written(n), jnp.int32(n))
        assert (cache.keys[:, :, :6] == 1).all() and (cache.keys[:, :, 6:] == n + 1).all()
        assert (cache.values == -cache.keys).all()
        np.testing.assert_array_equal(cache.valid, [True, n >= 1])
        start = min(3 * (n + 1), 18)
        np.testing.assert_array_equal(cache.positions, [[0, 1, 2], np.arange(start - 3, start)])
        assert (cache.previous().keys == n + 1).all() and cache.previous().keys.shape == (2, 1, 6, 1, 4)
    assert step._cache_size() == 1


def test_a_cache_keeps_its_dtype():
    cache = roll(empty_cache(dtype="bfloat16", **SIZES), written(0), 0, trained_frames=21)
    assert cache.keys.dtype == jnp.bfloat16
