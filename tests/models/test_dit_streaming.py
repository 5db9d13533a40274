"""Chunk by chunk with the cache equals the masked pass over the whole clip."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.dit_cases import SMALL, build, inputs
from tm_jax.nn.cache import roll
from tm_jax.nn.masks import SparseCausal, positions


def stream(model, chunk: int, count: int, noisy, sigma, conditioning, *, given=None):
    """Velocities of ``count`` chunks in turn, and every cache that a chunk was given."""
    trained = model.config.trained_frames

    @jax.jit
    def step(model, cache, index, noisy, told, constant):
        own = positions(index, "current", chunk=chunk, trained_frames=trained)
        v, written = model.chunk(noisy, sigma, told, positions=own, context=cache, condition_cache=constant)
        return v, roll(cache, written, index, trained_frames=trained)

    batch, _, height, width, _ = noisy.shape
    cache = model.empty_cache(batch=batch, chunk=chunk, height=height, width=width)
    constant, outputs, caches = jax.jit(lambda model: model.condition(conditioning))(model), [], []
    for index in range(count):
        caches.append(cache)
        cut = slice(index * chunk, (index + 1) * chunk)
        v, cache = step(
            model, cache, jnp.int32(index), noisy[:, cut], conditioning.frames(cut.start, cut.stop), constant
        )
        outputs.append(v)
    assert step._cache_size() == 1, "one compiled step must serve every chunk"
    return jnp.concatenate(outputs, axis=1), caches


def masked(model, chunk, *args, **options):
    return jax.jit(lambda model, *args: model(*args, pattern=SparseCausal(chunk), **options))(model, *args)


@pytest.mark.parametrize("chunk,patch", [(3, (1, 1, 1)), (7, (1, 1, 1)), (3, (1, 2, 2))])
def test_seven_cached_chunks_equal_the_masked_pass(chunk, patch, seed, relative_error):
    config = dataclasses.replace(SMALL, patch=patch, trained_frames=7 * chunk)
    model = build(config, seed)
    shape = {"batch": 2, "frames": 7 * chunk, "height": 2, "width": 2 * patch[2]}
    noisy, sigma, conditioning = inputs(config, np.random.default_rng(seed), **shape)
    streamed, _ = stream(model, chunk, 7, noisy, sigma, conditioning)
    whole = masked(model, chunk, noisy, sigma, conditioning)
    for index in range(7):
        cut = slice(index * chunk, (index + 1) * chunk)
        assert relative_error(streamed[:, cut], whole[:, cut]) < 1e-5, f"chunk {index}"


def test_the_long_variant_equals_the_stream_where_positions_are_pinned(seed, relative_error):
    """Chunk 0 and the last six of a stream of twelve: one pass from the cache before those six."""
    model = build(SMALL, seed)
    noisy, sigma, conditioning = inputs(
        SMALL, np.random.default_rng(seed), batch=1, frames=36, height=2, width=2
    )
    streamed, caches = stream(model, 3, 12, noisy, sigma, conditioning)
    pick = np.r_[0:3, 18:36]
    told = conditioning.replace(
        **{
            name: getattr(conditioning, name)[:, pick]
            for name in ("condition", "audio_tokens", "audio_keep", "mode")
        }
    )
    indices = np.array([0, *range(6, 12)])
    args = noisy[:, pick], sigma, told
    clip = masked(model, 3, *args, chunk_indices=indices, context=caches[6])
    assert relative_error(clip, streamed[:, pick]) < 1e-5
    # Without pinning it would be another video: the test must not pass by indifference.
    assert relative_error(masked(model, 3, *args), streamed[:, pick]) > 1e-3

    def energy(context):
        v = model(*args, pattern=SparseCausal(3), chunk_indices=indices, context=context)
        return jnp.square(v).sum()

    gradient = jax.jit(jax.grad(energy, allow_int=True))(caches[6])
    assert not gradient.keys.any() and not gradient.values.any()


def test_condition_cache_changes_nothing(seed, relative_error):
    model = build(SMALL, seed)
    noisy, sigma, conditioning = inputs(
        SMALL, np.random.default_rng(seed), batch=2, frames=3, height=2, width=3
    )
    cache = model.empty_cache(batch=2, chunk=3, height=2, width=3)
    run = jax.jit(
        lambda constant: model.chunk(
            noisy, sigma, conditioning, positions=jnp.arange(3), context=cache, condition_cache=constant
        )[0]
    )
    assert relative_error(run(model.condition(conditioning)), run(None)) < 1e-6


def test_what_belongs_together_must_come_together():
    model, (noisy, sigma, conditioning) = (
        build(SMALL),
        inputs(SMALL, np.random.default_rng(0), batch=1, frames=6, height=1, width=1),
    )
    with pytest.raises(ValueError, match="together or not at all"):
        model(noisy, sigma, conditioning, pattern=SparseCausal(3), chunk_indices=np.array([0, 9]))
    with pytest.raises(ValueError, match="6 frames do not split into chunks of 4"):
        model(noisy, sigma, conditioning, pattern=SparseCausal(4))
