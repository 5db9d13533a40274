"""The transformer's own promises: config, audio silence at step 0, compute dtype, eight devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.models.dit_cases import SMALL, abstract, build, initialised, inputs
from tm_jax.config import from_json
from tm_jax.diffusion.flow import clean_from_velocity
from tm_jax.models.dit_config import DiTConfig
from tm_jax.nn.masks import Bidirectional, SparseCausal
from tm_jax.pretrained.names import paths
from tm_jax.sharding import batch_sharding, shardings_like

SHAPE = {"batch": 2, "frames": 6, "height": 2, "width": 3}


def run(model, args, pattern=Bidirectional()):
    return jax.jit(lambda model, *args: model(*args, pattern=pattern))(model, *args)


def test_audio_dropped_or_masked_or_silent_is_no_audio(seed):
    model, args = build(SMALL, seed), inputs(SMALL, np.random.default_rng(seed), **SHAPE)
    noisy, sigma, told = args
    step = jax.jit(lambda told: model(noisy, sigma, told, pattern=Bidirectional()))
    heard = step(told)
    other = told.replace(audio_tokens=-told.audio_tokens)
    assert not np.allclose(step(other), heard, atol=1e-3)
    dropped = lambda told: told.replace(audio_keep=jnp.zeros_like(told.audio_keep))
    np.testing.assert_array_equal(step(dropped(told)), step(dropped(other)))
    masked = lambda told: told.replace(face_mask=jnp.zeros_like(told.face_mask))
    np.testing.assert_array_equal(step(masked(told)), step(masked(other)))
    np.testing.assert_allclose(step(masked(told)), step(dropped(told)), rtol=1e-5, atol=1e-6)


def test_dropped_audio_is_zero_after_norm_and_position(seed):
    model, (_, _, told) = build(SMALL, seed), inputs(SMALL, np.random.default_rng(seed), **SHAPE)
    keep = told.audio_keep.at[0, 1:].set(0.0)
    tokens = model.audio_embedding(told.audio_tokens, keep)
    assert not tokens[0, 1:].any() and tokens[0, 0].any() and tokens[1].any()


def test_the_face_mask_confines_the_audio_to_its_tokens(seed):
    config = dataclasses.replace(SMALL, layers=1, patch=(1, 2, 2))
    model = build(config, seed)
    noisy, sigma, told = inputs(config, np.random.default_rng(seed), batch=1, frames=2, height=4, width=6)
    told = told.replace(face_mask=jnp.zeros((1, 4, 6)).at[:, :2, 2:4].set(1.0))
    step = jax.jit(lambda told: model(noisy, sigma, told, pattern=Bidirectional()))
    moved = np.abs(step(told) - step(told.replace(audio_tokens=-told.audio_tokens))).max((0, 1, 4)) > 0
    expected = np.zeros((4, 6), bool)
    expected[:2, 2:4] = True
    np.testing.assert_array_equal(moved, expected)


def test_a_new_model_ignores_audio_and_mode_but_can_learn_them(seed):
    model, args = initialised(SMALL, seed), inputs(SMALL, np.random.default_rng(seed), **SHAPE)
    assert not model.blocks.audio.value.kernel[...].any() and model.blocks.audio.key.kernel[...].any()
    assert not model.mode_embedding[...].any()
    # The head starts at zero too: give it something to show.
    head = model.head.kernel
    model.head.kernel = head.replace(jax.random.normal(jax.random.key(seed), head.shape))
    noisy, sigma, told = args
    step = jax.jit(lambda told: model(noisy, sigma, told, pattern=Bidirectional()))
    other = told.replace(audio_tokens=-told.audio_tokens, mode=1 - told.mode)
    np.testing.assert_array_equal(step(told), step(other))

    def loss(model):
        return jnp.square(model(*args, pattern=Bidirectional()) - noisy).mean()

    gradient = jax.jit(jax.grad(loss))(model)
    assert (jnp.abs(gradient.blocks.audio.value.kernel[...]).max((1, 2)) > 0).all()
    assert jnp.abs(gradient.mode_embedding[...]).max() > 0


def test_remat_saves_memory_and_changes_nothing_else(seed, relative_error):
    args = inputs(SMALL, np.random.default_rng(seed), **SHAPE)
    gradients, kept = {}, {}
    for remat in ("none", "products", "full", "offload"):
        model = build(dataclasses.replace(SMALL, remat=remat), seed)
        loss = lambda model: jnp.square(model(*args, pattern=SparseCausal(3))).mean()
        step = jax.jit(jax.grad(loss)).lower(model).compile()
        kept[remat] = step.memory_analysis().temp_size_in_bytes
        gradients[remat] = paths(step(model))
    assert kept["full"] < kept["products"] < kept["none"]
    plain = gradients.pop("none")
    for name, remade in gradients.items():
        for path, gradient in remade.items():
            assert relative_error(gradient[...], plain[path][...]) < 1e-4, f"{name}: {path}"


@pytest.mark.parametrize("written,meant", [(True, "full"), (False, "products"), ("offload", "offload")])
def test_remat_as_older_files_wrote_it(written, meant):
    assert from_json(DiTConfig, {"width": 64, "heads": 2, "remat": written}).remat == meant


def test_bfloat16_stays_near_float32_and_returns_float32(seed, relative_error):
    args = inputs(SMALL, np.random.default_rng(seed), **SHAPE)
    half = build(dataclasses.replace(SMALL, dtype="bfloat16"), seed)
    v = run(half, args)
    assert v.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half))
    assert 1e-5 < relative_error(v, run(build(SMALL, seed), args)) < 0.05


def test_a_change_from_the_still_picture_is_the_velocity_that_leads_there(seed, relative_error):
    told = build(SMALL, seed)
    config = dataclasses.replace(SMALL, still_condition=True, predicts="change", change_scale=0.3)
    noisy, _, conditioning = inputs(SMALL, np.random.default_rng(seed), batch=2, frames=3, height=2, width=2)
    sigma = jnp.array([0.3, 1.0])
    change = run(told, (noisy, sigma, conditioning))
    velocity = run(build(config, seed), (noisy, sigma, conditioning))
    clean = clean_from_velocity(noisy, velocity, sigma)
    assert relative_error(clean, conditioning.condition[..., -5:] + 0.3 * change) < 1e-5
    assert np.isfinite(run(build(config, seed), (noisy, jnp.zeros(2), conditioning))).all(), "at no noise too"


@pytest.mark.parametrize("pattern", [Bidirectional(), SparseCausal(3)])
def test_eight_devices_equal_one(pattern, mesh8, seed, relative_error):
    model = build(SMALL, seed)
    args = inputs(SMALL, np.random.default_rng(seed), batch=4, frames=6, height=2, width=2)
    single = run(model, args, pattern)
    with jax.set_mesh(mesh8):
        placed = jax.device_put(model, shardings_like(model, mesh8))
        spec = lambda variable: tuple(variable[...].sharding.spec)
        shared = ("fsdp", "context")
        assert spec(placed.blocks.self_attention.query.kernel) == (None, shared, "tensor")
        assert spec(placed.blocks.self_attention.out.kernel) == (None, "tensor", shared)
        assert spec(placed.blocks.feed_forward.inner.kernel) == (None, shared, "tensor")
        assert spec(placed.blocks.feed_forward.outer.kernel) == (None, "tensor", shared)
        assert spec(placed.blocks.audio.key.kernel) == (None, shared, "tensor")
        assert placed.blocks.feed_forward.inner.kernel[...].addressable_shards[0].data.shape == (2, 16, 24)
        v = run(placed, jax.device_put(args, batch_sharding(mesh8)), pattern)
    assert v.sharding.is_equivalent_to(NamedSharding(mesh8, PartitionSpec(("data", "fsdp"))), v.ndim), (
        v.sharding
    )
    assert relative_error(v, single) < 1e-5


def test_every_large_parameter_of_the_full_model_names_its_axes():
    for path, variable in paths(abstract(DiTConfig())).items():
        if variable.size > 4e6:
            axes = variable.get_metadata().get("axes")
            assert axes is not None and any(axes), path


@pytest.mark.parametrize(
    "fault,sentence",
    [
        ({"heads": 3}, "does not split into 3 heads"),
        ({"patch": (2, 1, 1)}, "within one latent frame"),
        ({"attention": "flash"}, "known are auto, xla, cudnn"),
        ({"predicts": "change"}, "give still_condition too"),
    ],
)
def test_impossible_configs_are_refused(fault, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(SMALL, **fault)
