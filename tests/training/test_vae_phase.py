"""The VAE's phase: what a run that goes on from other weights keeps and what it changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tm_jax.data.encoded_videos import EncodedConfig, videos_digest
from tm_jax.data.puppet_windows import WindowConfig
from tm_jax.diffusion.face_cells import cell_weight
from tm_jax.errors import InputError
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.weights import load_model, save_model
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig
from tm_jax.training.vae_phase import VaeExperiment, latent_statistics, strength_errors

MODEL = VAEConfig(
    base_dim=8, z_dim=4, dim_mult=(1, 1), num_res_blocks=0, temporal_downsample=(True,),
    spatial_downsample=(False,), patch_size=8, residual=True, linear_ends=True,
    latents_mean=(0.1, 0.2, 0.3, 0.4), latents_std=(2.0, 1.0, 0.5, 3.0),
)  # fmt: skip
REFINED = dataclasses.replace(
    MODEL, refine_blocks=1, refine_dim=4, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4
)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Weights of a VAE without a refiner."""
    path = tmp_path_factory.mktemp("vae") / "weights.safetensors"
    save_model(path, VAE(MODEL, rngs=nnx.Rngs(0)), MODEL)
    return path


@pytest.fixture(scope="module")
def refined(first):
    """The VAE after two updates of its decoding half."""
    phase = VaeExperiment(
        loop=LoopConfig(name="refined", steps=2, batch_size=1),
        model=REFINED,
        optim=OptimConfig(lr=1e-2),
        windows=WindowConfig(frames=3),
        init_from=first,
        freeze_encoder=True,
    ).build()
    state = phase.start(jax.jit(phase.init)(jax.random.key(0)))
    batch = {"frames": np.random.default_rng(0).integers(0, 256, (1, 1, 3, 32, 32, 3), np.uint8)}
    for index in range(2):
        state, metrics = phase.step(state, batch, index)
    assert np.isfinite(metrics["loss"])
    return phase.weights(state)


def test_a_frozen_encoder_leaves_the_latents_as_they_were(first, refined, rng):
    before = load_model(first, VAE, VAEConfig)
    video = jnp.asarray(rng.uniform(-1, 1, (1, 3, 32, 32, 3)), jnp.float32)
    np.testing.assert_array_equal(refined.encode(video), before.encode(video))
    latents = jnp.asarray(rng.normal(size=(1, 2, 4, 4, 4)), jnp.float32)
    assert np.abs(refined.decode(latents) - before.decode(latents)).max() > 1e-3


def test_encoded_videos_survive_another_decoder_and_no_other_encoder(first, refined):
    before, config = load_model(first, VAE, VAEConfig), EncodedConfig()
    known = videos_digest(before, config)
    assert videos_digest(refined, dataclasses.replace(config, count=7)) == known
    assert videos_digest(refined, dataclasses.replace(config, seconds=7.0)) != known
    assert videos_digest(VAE(MODEL, rngs=nnx.Rngs(1)), config) != known


def test_nothing_is_frozen_that_never_learnt():
    with pytest.raises(ValueError, match="freeze_encoder needs init_from"):
        VaeExperiment(loop=LoopConfig(name="x", steps=1), model=REFINED, freeze_encoder=True)


def test_the_scale_of_the_latents_keeps_as_much_of_their_ratios_as_is_asked(first, rng):
    vae = load_model(first, VAE, VAEConfig)
    windows = jnp.asarray(rng.uniform(-1, 1, (4, 3, 32, 32, 3)), jnp.float32)
    mean, std = latent_statistics(vae, windows)
    half = latent_statistics(vae, windows, evenness=0.5)[1]
    none = latent_statistics(vae, windows, evenness=0.0)[1]
    np.testing.assert_allclose(none, np.mean(std), rtol=1e-5)
    np.testing.assert_allclose(np.square(half), np.multiply(std, np.mean(std)), rtol=1e-5)
    assert len(mean) == MODEL.z_dim


def test_the_mouth_is_in_the_middle_of_the_lower_half_of_the_face():
    face = np.zeros((1, 16, 16), np.float32)
    face[0, 3:13, 4:14] = 1
    face = jnp.asarray(face)
    weight = np.asarray(cell_weight(face, 1.5, 4.0))[0, 0, :, :, 0]
    assert (weight[8:13, 6:12] == 4).all() and (weight == 4).sum() == 30
    assert (weight[3:8, 4:14] == 1.5).all() and weight[0, 0] == 1
    np.testing.assert_array_equal(cell_weight(face, 1.5)[0, 0, :, :, 0], 1 + 0.5 * face[0])


def test_weights_of_another_size_are_refused(first):
    other = dataclasses.replace(REFINED, base_dim=16)
    phase = VaeExperiment(loop=LoopConfig(name="x", steps=1), model=other, init_from=first).build()
    with pytest.raises(InputError, match="base_dim"):
        phase.start(jax.jit(phase.init)(jax.random.key(0)))


def test_the_strength_of_detail_and_movement_is_compared_wherever_it_is(rng):
    """Detail that is as strong but elsewhere costs nothing; detail that is blurred or missing does."""
    true = rng.standard_normal((1, 5, 16, 16, 3), np.float32)
    mirrored = true[:, :, ::-1, ::-1]
    assert max(strength_errors(jnp.asarray(mirrored), jnp.asarray(true), 16)) < 0.01
    halved = strength_errors(jnp.asarray(0.5 * true), jnp.asarray(true), 16)
    # Each kind of difference has a mean square of 2, where it has a next one; half of its root is missing.
    np.testing.assert_allclose(halved, np.array([4 / 5, 15 / 16 + 15 / 16]) * 2 / 4, rtol=0.05)
    slope = jax.grad(lambda video: sum(strength_errors(video, jnp.asarray(true), 8)))(jnp.zeros_like(true))
    assert np.isfinite(slope).all()
