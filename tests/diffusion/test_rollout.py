"""The causal step equals the masked passes, remembers no more than it should, and compiles once."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.dit_cases import build
from tm_jax.diffusion.rollout import generate_chunk, init_stream, make_reference, parallel_steps
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


@pytest.mark.parametrize("chunk,predicts", [(3, "velocity"), (7, "velocity"), (3, "change")])
def test_stream_equals_the_parallel_masked_passes(seed, getkey, relative_error, chunk, predicts):
    config = RolloutConfig(chunk=chunk)
    model = build(dataclasses.replace(CONFIG, still_condition=predicts == "change", predicts=predicts), seed)
    whole = conditioning(getkey(), 21)
    noises = jax.random.normal(getkey(), (2, 2, 21, 2, 2, 4))
    parallel = jax.jit(lambda *given: parallel_steps(model, config, *given)[1])(whole, noises)
    assert relative_error(stream(model, config, whole, noises, 21 // chunk), parallel) <= 1e-5


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
        clean = parallel_steps(model, config, whole.replace(audio_tokens=audio), noise)[1]
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
