"""The causal step equals the masked passes, remembers no more than it should, and compiles once."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.dit_cases import build
from tm_jax.diffusion.flow import clean_from_velocity
from tm_jax.diffusion.rollout import clip_steps, clip_velocity, generate_chunk, init_stream, make_reference
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.models.dit_config import DiTConfig
from tm_jax.types import Conditioning

CONFIG = DiTConfig(
    width=48, ffn=64, heads=4, layers=2, patch=(1, 1, 1), in_channels=12, out_channels=4, text_width=8,
    text_length=3, image_width=4, image_length=4, audio_width=6, audio_dim=16, audio_lookahead=0,
    time_frequencies=16, dtype="float32", remat="products",
)  # fmt: skip


def conditioning(key, frames: int, batch: int = 2) -> Conditioning:
    keys = jax.random.split(key, 5)
    return Conditioning(
        text_tokens=jax.random.normal(keys[0], (batch, 3, 8)),
        image_tokens=jax.random.normal(keys[1], (batch, 4, 4)),
        condition=jax.random.normal(keys[2], (batch, frames, 2, 2, 8)),
        audio_tokens=jax.random.normal(keys[3], (batch, frames, 16, 6)),
        audio_keep=jnp.ones((batch, frames)),
        face_mask=jnp.ones((batch, 2, 2)),
        mode=jax.random.randint(keys[4], (batch, frames), 0, 2),
    )


@pytest.fixture
def model(seed):
    return build(CONFIG, seed)


def stream(model, config, whole, noises, chunks):
    """The whole stream, chunk by chunk, by one compiled step."""
    step = jax.jit(chex.assert_max_traces(lambda *a: generate_chunk(model, config, *a), n=1))
    chex.clear_trace_counter()
    reference = jax.jit(make_reference)(model, whole.frames(0, 21))
    state, made = init_stream(model, config, reference), []
    for index in range(chunks):
        here = slice(index * config.chunk, (index + 1) * config.chunk)
        clean, state = step(reference, state, noises[:, :, here], whole.frames(here.start, here.stop))
        made.append(clean)
    return jnp.concatenate(made, axis=1)


@pytest.mark.parametrize(
    "chunk,predicts,clean_kv",
    [(3, "velocity", False), (7, "velocity", False), (3, "change", False), (3, "velocity", True)],
)
def test_stream_equals_the_passes_over_a_whole_clip(seed, getkey, relative_error, chunk, predicts, clean_kv):
    config = RolloutConfig(chunk=chunk, clean_kv=clean_kv)
    model = build(dataclasses.replace(CONFIG, still_condition=predicts == "change", predicts=predicts), seed)
    whole = conditioning(getkey(), 21)
    noises = jax.random.normal(getkey(), (2, 2, 21, 2, 2, 4))
    parallel = jax.jit(lambda *given: clip_steps(model, config, *given)[1][-1])(whole, noises)
    assert relative_error(stream(model, config, whole, noises, 21 // chunk), parallel) <= 1e-5


def test_clean_keys_and_values_are_those_of_the_finished_chunk(model, getkey):
    """Later chunks feel what a chunk became and not on which noise; training sees what the stream saw."""
    config = RolloutConfig(clean_kv=True)
    whole, noises = conditioning(getkey(), 21), jax.random.normal(getkey(), (2, 2, 21, 2, 2, 4))
    given, cleans = jax.jit(lambda *told: clip_steps(model, config, *told))(whole, noises)
    level = jnp.full((2,), config.sigmas[1])

    @jax.jit
    def again(noisy, history):
        velocity = clip_velocity(model, config, noisy, level, whole, history)
        return clean_from_velocity(noisy, velocity, level)

    np.testing.assert_allclose(again(given[1], cleans[1]), cleans[1], rtol=1e-4, atol=1e-5)
    other = again(given[1].at[:, 3:6].add(1.0), cleans[1])
    np.testing.assert_array_equal(other[:, 6:], again(given[1], cleans[1])[:, 6:])
    changed = np.abs(again(given[1], cleans[1].at[:, 3:6].add(1.0)) - cleans[1]).max((0, 2, 3, 4))
    assert (changed[6:9] > 1e-3).all() and changed[9:].max() < changed[6:9].min()
    assert np.abs(np.asarray(clip_steps_of(model, RolloutConfig(), whole, noises) - cleans[1])).max() > 1e-3


def clip_steps_of(model, config, whole, noises):
    return jax.jit(lambda *told: clip_steps(model, config, *told)[1][-1])(whole, noises)


def test_a_long_stream_keeps_its_shape_and_its_compiled_step(model, getkey):
    config = RolloutConfig()
    whole = conditioning(getkey(), 36)
    noises = jax.random.normal(getkey(), (2, 2, 36, 2, 2, 4))
    made = stream(model, config, whole, noises, 12)
    assert made.shape == (2, 36, 2, 2, 4)
    assert np.isfinite(made).all()


def test_no_chunk_feels_later_audio_and_every_permitted_past_is_felt(model, getkey):
    config = RolloutConfig()
    whole = conditioning(getkey(), 21, batch=1)
    noises = jax.random.normal(getkey(), (2, 1, 21, 2, 2, 4))

    def chunk_three(audio, noise):
        clean = clip_steps(model, config, whole.replace(audio_tokens=audio), noise)[1][-1]
        return jnp.sum(jnp.sin(7 * clean[:, 9:12]))

    by_audio, by_noise = jax.jit(jax.grad(chunk_three, argnums=(0, 1)))(whole.audio_tokens, noises)
    audio = np.abs(np.asarray(by_audio)).sum((0, 2, 3))
    noise = np.abs(np.asarray(by_noise)).sum((1, 3, 4, 5))
    assert (audio[12:] == 0).all(), "later audio reaches an earlier chunk"
    assert (noise[:, 12:] == 0).all(), "later noise reaches an earlier chunk"
    assert (audio[:12] > 0).all(), "audio of a permitted chunk is not heard"
    assert (noise[:, :12] > 0).all(), "noise of a permitted chunk has no effect"


def test_sigmas_are_one_and_the_shifted_half():
    assert RolloutConfig().sigmas == pytest.approx((1.0, 5 / 6))
