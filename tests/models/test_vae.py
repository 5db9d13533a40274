"""The VAE alone: streams equal whole clips, the past alone matters, nothing compiles twice."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.vae_cases import SHORT, TINY, WAN22, abstract, build, config, jit
from tm_jax.errors import InputError
from tm_jax.models.vae import Refiner, patchify, unpatchify
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.names import paths, with_values


def draw(model, rng, frames, batch=2, height=1, width=2):
    """Random latents of this many frames."""
    return jnp.asarray(rng.normal(size=(batch, frames, height, width, model.config.z_dim)), jnp.float32)


def with_dtype(model, dtype):
    """The same parameters computing in another dtype."""
    other = abstract(dataclasses.replace(model.config, dtype=dtype))
    return with_values(other, {path: variable[...] for path, variable in paths(model).items()})


@pytest.mark.parametrize("form", [SHORT, WAN22, TINY], ids=["wan21", "wan22", "ours"])
def test_streaming_decode_equals_whole_and_compiles_twice(form, rng, relative_error):
    model = build(config(rng, form), rng)
    latents = draw(model, rng, 5)
    whole = jit(lambda model, z: model.decode(z))(model, latents)
    assert whole.shape[1] == 17
    chex.clear_trace_counter()

    @jit
    @chex.assert_max_traces(n=1)
    def start(model, z, state):
        return model.decode_step(z, state, first=True)

    @jit
    @chex.assert_max_traces(n=1)
    def go_on(model, z, state):
        return model.decode_step(z, state, first=False)

    state = model.decode_state(2, 1, 2)
    parts = []
    for j in range(5):
        frames, after = (go_on if j else start)(model, latents[:, j : j + 1], state)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
        state = after
        parts.append(frames)
    assert [part.shape[1] for part in parts] == [1, 4, 4, 4, 4]
    assert relative_error(jnp.concatenate(parts, axis=1), whole) <= 1e-5
    # A first step starts afresh, whatever the state holds.
    assert jnp.array_equal(start(model, latents[:, :1], state)[0], parts[0])


def test_chunks_of_any_length_equal_whole(rng, relative_error):
    model = build(config(rng, WAN22), rng)
    latents = draw(model, rng, 6)
    whole = jit(lambda model, z: model.decode(z))(model, latents)
    first, state = jit(lambda m, z: m.decode_chunk(z, None, first=True))(model, latents[:, :3])
    later, _ = jit(lambda m, z, s: m.decode_chunk(z, s, first=False))(model, latents[:, 3:], state)
    assert (first.shape[1], later.shape[1]) == (9, 12)
    assert relative_error(jnp.concatenate([first, later], axis=1), whole) <= 1e-5


def test_a_new_refiner_changes_nothing_and_then_learns(rng):
    refiner = Refiner(config(rng, TINY), rngs=nnx.Rngs(0))
    video = jnp.asarray(rng.uniform(-1, 1, (1, 2, 4, 6, 3)), jnp.float32)
    assert jnp.array_equal(refiner(video), video)
    slope = jax.grad(lambda refiner: jnp.mean(jnp.square(refiner(video) - 0.5)))(refiner)
    assert jnp.any(slope.conv_out.kernel[...] != 0)


@pytest.mark.parametrize("form", [SHORT, WAN22, TINY], ids=["wan21", "wan22", "ours"])
def test_streaming_encode_equals_whole(form, rng, relative_error):
    model = build(config(rng, form), rng)
    side = model.config.spatial_stride
    video = jnp.asarray(rng.uniform(-1, 1, (2, 13, side, 2 * side, 3)), jnp.float32)
    whole = jit(lambda model, video: model.encode(video))(model, video)
    start = jit(lambda model, frames, state: model.encode_step(frames, state, first=True))
    go_on = jit(lambda model, frames, state: model.encode_step(frames, state, first=False))
    latent, state = start(model, video[:, :1], model.encode_state(2, side, 2 * side))
    parts = [latent]
    for j in range(3):
        latent, state = go_on(model, video[:, 1 + 4 * j : 5 + 4 * j], state)
        parts.append(latent)
    assert relative_error(jnp.concatenate(parts, axis=1), whole) <= 1e-5


def test_no_frame_sees_a_later_latent(rng):
    model = build(config(rng, WAN22), rng)
    latents = draw(model, rng, 4, batch=1)
    middle_of_latent_1 = lambda z: jnp.sum(jnp.square(model.decode(z)[:, 1:5]))
    reach = np.abs(jit(jax.grad(middle_of_latent_1))(latents)).sum(axis=(0, 2, 3, 4))
    assert reach[0] > 0 and reach[1] > 0
    assert not reach[2:].any()


def test_normalise_and_denormalise_are_inverse(rng, relative_error):
    model = build(config(rng, SHORT), rng)
    latents = draw(model, rng, 2)
    assert relative_error(model.denormalise(model.normalise(latents)), latents) <= 1e-6


def test_patches_are_put_back(rng):
    video = jnp.asarray(rng.normal(size=(2, 3, 8, 12, 3)), jnp.float32)
    assert jnp.array_equal(unpatchify(patchify(video, 4), 4), video)


def test_bfloat16_computes_in_it_and_returns_float32(rng):
    model = build(config(rng, SHORT), rng)
    latents = draw(model, rng, 1)
    decode = lambda dtype: jit(lambda latents: with_dtype(model, dtype).decode(latents))(latents)
    exact, rough = decode("float32"), decode("bfloat16")
    assert rough.dtype == jnp.float32
    error = float(jnp.linalg.norm(rough - exact) / jnp.linalg.norm(exact))
    assert 1e-5 < error < 0.1


@pytest.mark.parametrize(
    ("shape", "words"), [((1, 4, 8, 8, 3), "4 frames"), ((1, 5, 8, 10, 3), "10×8")], ids=["length", "size"]
)
def test_a_clip_that_does_not_fit_is_refused(shape, words, rng):
    model = build(config(rng, WAN22), rng)
    with pytest.raises(InputError, match=words):
        model.encode(jnp.zeros(shape))


def test_stages_that_halve_less_give_a_smaller_stride_and_the_decoder_its_own_widths(rng):
    model = abstract(config(rng, TINY))
    assert (model.config.spatial_stride, model.config.temporal_stride) == (4, 4)
    assert [stage.outputs for stage in model.encoder.stages] == [8, 8, 8, 8]
    assert [stage.outputs for stage in model.decoder.stages] == [16, 16, 4, 4]
    assert [stage.spatial for stage in model.decoder.stages] == [False, False, True, False]
    assert model.encoder.norm_out is None and model.decoder.norm_out is None
    video = jax.ShapeDtypeStruct((1, 9, 8, 12, 3), jnp.float32)
    latents = jax.eval_shape(lambda model, video: model.encode(video), model, video)
    assert latents.shape[:4] == (1, 3, 2, 3)
    again = jax.eval_shape(lambda model, latents: model.decode(latents), model, latents)
    assert again.shape == video.shape


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"z_dim": 4}, "z_dim"),
        ({"dim_mult": (1, 2)}, "temporal_downsample"),
        ({"decoder_dim_mult": (1, 2)}, "decoder_dim_mult needs as many"),
        ({"spatial_downsample": (True,), "residual": True}, "spatial_downsample needs one entry fewer"),
        ({"spatial_downsample": (True, False, True)}, "need residual=True"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(fault, sentence):
    with pytest.raises(ValueError, match=sentence):
        VAEConfig(**fault)
