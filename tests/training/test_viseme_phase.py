"""The viseme encoder's training: what it is told, what is done to the sound, and that it learns."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tm_jax.audio.log_mel import LogMelConfig
from tm_jax.data.puppets.draw import MOTION
from tm_jax.data.puppets.world import PuppetWorld
from tm_jax.models.viseme_config import MOUTH, VisemeConfig
from tm_jax.models.visemes import VisemeEncoder
from tm_jax.training.loop import Phase
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig
from tm_jax.training.viseme_phase import Disturbances, SoundsConfig, VisemeExperiment, disturb, mouth_track

NOTHING = Disturbances(warp=0.0, gain=0.0, noisy=0.0)


def test_the_mouth_is_told_at_its_own_moment():
    track = PuppetWorld(seed=0).truth(3, 4.0)
    count = 2 * len(track.motion) - 2
    told = mouth_track(track, 0, count)
    for place, name in enumerate(MOUTH):
        np.testing.assert_allclose(told[::2, place], track.motion[:-1, MOTION.index(name)], atol=1e-6)
    np.testing.assert_allclose(mouth_track(track, -4, count)[4:], told[:-4], atol=1e-6)
    np.testing.assert_allclose(told[1:-1:2], (told[:-2:2] + told[2::2]) / 2, atol=1e-6)


def test_disturbances_do_what_they_say(rng, getkey):
    power = rng.uniform(0, 300, (3, 20, 80)).astype(np.float32)
    mel = jnp.asarray(np.log1p(power) / 5)
    np.testing.assert_allclose(disturb(mel, getkey(), NOTHING), mel, atol=1e-5)
    silence = jnp.zeros((64, 5, 80))
    still = disturb(silence, getkey(), Disturbances(noisy=0.0))
    np.testing.assert_allclose(still, 0, atol=1e-6)
    noisy = disturb(silence, getkey(), Disturbances(noisy=1.0, noise_range=(1.0, 1.01)))
    density = np.expm1(5 * np.asarray(noisy))
    assert 0.8 < np.median(density) < 1.2 and density.min() > 0
    louder = np.expm1(5 * np.asarray(disturb(mel, getkey(), Disturbances(warp=0.0, gain=6.0, noisy=0.0))))
    gains = louder[..., 40] / power[..., 40]
    np.testing.assert_allclose(gains, np.broadcast_to(gains[:, :1], gains.shape), rtol=1e-2)
    assert gains[:, 0].std() > 0.01


def test_a_longer_throat_moves_every_band_the_same_way(getkey):
    bands = LogMelConfig().bands
    peak = jnp.zeros((200, 1, 2 * bands)).at[:, :, 20].set(1.0).at[:, :, bands + 20].set(1.0)
    moved = np.asarray(disturb(peak, getkey(), Disturbances(warp=0.15, gain=0.0, noisy=0.0)))
    places = moved[:, 0, :bands].argmax(-1)
    np.testing.assert_allclose(moved[..., :bands], moved[..., bands:], atol=1e-6)
    assert places.min() in (17, 18) and places.max() in (22, 23, 24)


@pytest.fixture(scope="module")
def phase():
    chex.clear_trace_counter()
    model = VisemeConfig(width=24, dilations=(1, 2), outputs=16)
    sounds = SoundsConfig(count=2, seconds=4.0, piece=48)
    optim = OptimConfig(lr=3e-3)
    return VisemeExperiment(LoopConfig("h"), model, optim, sounds, disturb=NOTHING).build()


def test_a_step_learns(phase):
    assert isinstance(phase, Phase)
    source = phase.dataset()
    elements = [source[index] for index in range(len(source))]
    batch = {name: np.stack([element[name] for element in elements]) for name in elements[0]}
    assert batch["mel"].shape[1] == batch["mouth"].shape[1] + phase.config.model.past
    state = phase.start(jax.jit(phase.init)(jax.random.key(0)))
    losses = []
    for index in range(60):
        state, metrics = phase.step(state, batch, index)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.6 * losses[0]
    assert isinstance(phase.weights(state), VisemeEncoder)
