"""The decoder that learns on a student's latents: what it is given, what it changes, what it refuses."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.dit_cases import build
from tests.training.test_vae_phase import MODEL
from tm_jax.audio.log_mel import LogMel
from tm_jax.config import to_json
from tm_jax.data.spoken_windows import SpokenWindowsConfig
from tm_jax.diffusion.conditions import reference_latents
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.errors import InputError
from tm_jax.media.pixels import to_signed
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.nn.masks import SparseCausal
from tm_jax.pretrained.weights import load_model, save_model
from tm_jax.training.decoder_phase import DecoderExperiment
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig
from tm_jax.training.vae_phase import AutoencodingLoss
from tm_jax.types import Conditioning

VAE_OF_FOUR = dataclasses.replace(
    MODEL, dim_mult=(1, 1, 1), temporal_downsample=(True, True), spatial_downsample=(False, False)
)
STUDENT = DiTConfig(
    width=16, ffn=16, heads=2, layers=1, patch=(1, 1, 1), in_channels=12, out_channels=4, text_width=4,
    text_length=2, image_width=4, image_length=16, audio_width=LogMel().token_width, audio_dim=8,
    time_frequencies=8, trained_frames=6, dtype="float32", remat="none",
)  # fmt: skip
ROLLOUT = RolloutConfig(chunk=2)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    save_model(folder / "vae.safetensors", VAE(VAE_OF_FOUR, rngs=nnx.Rngs(0)), VAE_OF_FOUR)
    meta = {"rollout": to_json(ROLLOUT)}
    save_model(folder / "student.safetensors", build(STUDENT), STUDENT, meta=meta)
    save_model(folder / "teacher.safetensors", build(STUDENT), STUDENT)
    return DecoderExperiment(
        loop=LoopConfig(name="decoder", steps=2, batch_size=1, same=("vae", "student")),
        vae=folder / "vae.safetensors",
        student=folder / "student.safetensors",
        optim=OptimConfig(lr=1e-2),
        loss=AutoencodingLoss(strength=1.0, motion_strength=2.0),
        windows=SpokenWindowsConfig(size=32, seconds=2.0, videos=2),
        chunks=2,
    )


@pytest.fixture(scope="module")
def phase(experiment):
    return experiment.build()


@pytest.fixture(scope="module")
def window(phase):
    return phase.dataset()[0]


def test_a_window_is_frames_and_what_a_student_needs_to_make_their_latents(phase, window):
    assert window["frames"].shape == (13, 32, 32, 3) and window["frames"].dtype == np.uint8
    assert window["latents"].shape == (*window["conditioning"]["condition"].shape[:3], 4) == (4, 4, 4, 4)
    again = phase.dataset()[0]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), window, again))
    assert (phase.dataset()[1]["frames"] != window["frames"]).any()


def test_the_reference_begins_as_a_longer_one_would(phase, window):
    vae, picture = load_model(phase.config.vae, VAE, VAEConfig), jnp.asarray(to_signed(window["frames"][:1]))
    longer = reference_latents(vae, picture, 6, still=False)[0, :4]
    np.testing.assert_allclose(window["conditioning"]["condition"][..., 4:], longer, atol=2e-3)


def test_the_student_denoises_from_its_last_level(phase, window):
    batched = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree)
    latents, told = batched(window["latents"]), batched(window["conditioning"])
    made = phase._estimated(phase.student, latents, told, jax.random.key(1))
    level = ROLLOUT.sigmas[-1]
    noisy = (1 - level) * latents + level * jax.random.normal(jax.random.key(1), latents.shape)
    velocity = phase.student(noisy, jnp.full((1,), level), Conditioning(**told), pattern=SparseCausal(2))
    np.testing.assert_allclose(made, noisy - level * velocity, rtol=1e-4, atol=1e-5)
    assert np.abs(made - latents).max() > 0.1


def test_only_the_decoding_half_learns(experiment, phase, window):
    state = phase.start(jax.jit(phase.init)(jax.random.key(0)))
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], window)
    before = load_model(experiment.vae, VAE, VAEConfig)
    for index in range(2):
        state, metrics = phase.step(state, batch, index)
    assert np.isfinite(metrics["loss"]) and metrics["motion_strength"] > 0
    after = phase.weights(state)
    same = lambda one, other: jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))
    assert same((after.encoder, after.quant), (before.encoder, before.quant))
    assert not same(after.decoder, before.decoder)
    # One average of the two updates' decoders, each halfway between the start and what was learnt.
    alone = dataclasses.replace(experiment, blend=1.0).build()
    state = alone.start(jax.jit(alone.init)(jax.random.key(0)))
    for index in range(2):
        state, _ = alone.step(state, batch, index)
    halfway = jax.tree.map(lambda old, new: (old + new) / 2, before.decoder, alone.weights(state).decoder)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), after.decoder, halfway)


def test_what_is_no_student_of_this_vae_is_refused(experiment, tmp_path):
    teacher = experiment.student.with_name("teacher.safetensors")
    with pytest.raises(InputError, match="does not say with which steps and chunks"):
        dataclasses.replace(experiment, student=teacher).build()
    other = dataclasses.replace(VAE_OF_FOUR, z_dim=5, latents_mean=(0.0,) * 5, latents_std=(1.0,) * 5)
    save_model(tmp_path / "vae.safetensors", VAE(other, rngs=nnx.Rngs(0)), other)
    with pytest.raises(InputError, match=r"4 channels .* reads 5"):
        dataclasses.replace(experiment, vae=tmp_path / "vae.safetensors").build()
    deaf = dataclasses.replace(STUDENT, audio_width=6)
    meta = {"rollout": to_json(ROLLOUT)}
    save_model(tmp_path / "student.safetensors", build(deaf), deaf, meta=meta)
    with pytest.raises(InputError, match="hears 6 numbers a token and log-mel gives"):
        dataclasses.replace(experiment, student=tmp_path / "student.safetensors").build()
    short = dataclasses.replace(experiment, windows=SpokenWindowsConfig(size=32, seconds=0.4))
    with pytest.raises(
        InputError, match=r"windows\.seconds 0\.4: a window takes 13 frames; give at least 0\.52"
    ):
        short.build().dataset()
