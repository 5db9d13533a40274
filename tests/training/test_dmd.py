"""Distillation: the losses' gradients, what each update touches, and the long variant."""

import dataclasses
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.tiny import CLIP, CONFIG, random_dit, videos
from tm_jax.diffusion.flow import add_noise, clean_from_velocity
from tm_jax.diffusion.sampler import Guidance
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.nn.masks import Bidirectional
from tm_jax.pretrained.weights import save_model
from tm_jax.training.dmd import DistillationLoss, distribution_matching_loss, score_gap
from tm_jax.training.flow_matching import level_weight
from tm_jax.training.loop import LoopConfig
from tm_jax.training.ode_pairs import OdePairs
from tm_jax.training.student_clips import long_clip
from tm_jax.training.student_phase import PairedClips, StudentExperiment
from tm_jax.types import Conditioning


@pytest.fixture
def batch():
    world = videos(2)
    rng = np.random.default_rng(1)
    pairs = OdePairs(
        np.array([0, 1]), np.stack([np.arange(21)] * 2), rng.normal(size=(2, 21, 2, 2, 4)), seed=0
    )
    experiment = experiment_in(Path("unused"))
    transform = PairedClips(experiment, world, pairs)
    elements = [transform.random_map(video, np.random.default_rng(i)) for i, video in enumerate(world)]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *elements)


def experiment_in(folder: Path) -> StudentExperiment:
    return StudentExperiment(
        loop=LoopConfig(name="student", run_dir=folder),
        model=CONFIG,
        vae=folder / "vae.safetensors",
        teacher=folder / "teacher.safetensors",
        warmup=1,
        critic_per_student=1,
        long_every=0,
        long_chunks=9,
        clip=CLIP,
        loss=DistillationLoss(guidance=Guidance(audio=2.0)),
    )


@pytest.fixture
def phase(tmp_path, getkey):
    chex.clear_trace_counter()
    save_model(tmp_path / "teacher.safetensors", random_dit(getkey()), CONFIG)
    return experiment_in(tmp_path).build()


def test_gradient_of_the_matching_loss_is_the_score_gap(getkey, batch):
    teacher, critic = random_dit(getkey()), random_dit(getkey())
    clip, terms = batch["clip"], DistillationLoss(guidance=Guidance(audio=2.0))
    conditioning, estimate, key = Conditioning(**clip["conditioning"]), clip["latents"], getkey()
    gap = jax.jit(score_gap, static_argnames="terms")(
        estimate, teacher, critic, conditioning, key, terms=terms
    )
    gradient = jax.grad(distribution_matching_loss)(estimate, gap, conditioning, terms)
    np.testing.assert_allclose(gradient * estimate.size, gap, rtol=2e-4, atol=1e-6)
    weighed = dataclasses.replace(terms, face=2.0)
    partly = conditioning.replace(face_mask=conditioning.face_mask.at[:, 0].set(0.0))
    gradient = jax.grad(distribution_matching_loss)(estimate, gap, partly, weighed)
    face = partly.face_mask[:, None, :, :, None]
    np.testing.assert_allclose(gradient * estimate.size, (1 + face) * gap, rtol=2e-4, atol=1e-6)

    level_key, noise_key = jax.random.split(key)
    sigma = terms.level(level_key, len(estimate))
    noisy = add_noise(estimate, jax.random.normal(noise_key, estimate.shape), sigma)
    deaf = conditioning.replace(audio_keep=jnp.zeros_like(conditioning.audio_keep))
    see = jax.jit(
        lambda model, told: clean_from_velocity(
            noisy, model(noisy, sigma, told, pattern=Bidirectional()), sigma
        )
    )
    heard, unheard = see(teacher, conditioning), see(teacher, deaf)
    real = heard + (2.0 - 1.0) * (heard - unheard)
    distance = jnp.abs(estimate - real).mean((1, 2, 3, 4), keepdims=True)
    np.testing.assert_allclose(gap, (see(critic, conditioning) - real) / distance, rtol=1e-3, atol=1e-4)


def test_gap_of_equal_scores_is_zero_and_nan_is_dropped(getkey, batch):
    model, clip = random_dit(getkey()), batch["clip"]
    terms = DistillationLoss(guidance=Guidance(audio=1.0))
    conditioning = Conditioning(**clip["conditioning"])
    measure = jax.jit(score_gap, static_argnames="terms")
    gap = measure(clip["latents"], model, model, conditioning, getkey(), terms=terms)
    assert float(jnp.abs(gap).max()) <= 1e-5
    broken = clip["latents"].at[0, 0].set(jnp.nan)
    assert np.isfinite(measure(broken, model, model, conditioning, getkey(), terms=terms)).all()


def test_each_step_touches_only_what_it_trains(phase, batch, getkey):
    host = lambda tree: [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if leaf.dtype == jnp.float32]
    before = host(phase.teacher)
    state = jax.jit(phase.init)(getkey())
    student, critic = host(state.student.model), host(state.critic.model)
    differ = lambda tree, old: any((new != was).any() for new, was in zip(host(tree), old, strict=True))
    state, _ = phase.step(state, batch, 0)
    assert differ(state.student.model, student)
    assert not differ(state.critic.model, critic)
    assert not differ(phase.teacher, before)
    student, critic = host(state.student.model), host(state.critic.model)
    state, metrics = phase.step(state, batch, 1)
    assert {"critic_loss", "dmd_loss", "regression_loss"} <= set(metrics)
    assert all(np.isfinite(value) for value in metrics.values())
    assert differ(state.critic.model, critic)
    assert differ(state.student.model, student)
    assert not differ(phase.teacher, before)
    assert (phase.config.loop.folder / "warmup.safetensors").exists()


def test_every_kind_of_update_is_traced_once_and_by_itself(phase, batch, getkey):
    state = jax.jit(phase.init)(getkey())
    assert len(phase._generate) == 6
    for update in phase._generate.values():
        update.lower(state, phase.teacher, batch)


@pytest.mark.parametrize("exit_step", [0, 1])
def test_long_clip_is_what_the_stream_made_at_pinned_positions(phase, batch, getkey, exit_step):
    """Denoised again all at once, the end of a long stream equals what streaming made of it."""
    from tm_jax.diffusion.rollout import chunk_steps, init_stream, make_reference

    student, key = random_dit(getkey()), getkey()
    rollout = RolloutConfig()

    @jax.jit
    def all_at_once(student, batch):
        clip = long_clip(student, rollout, batch, exit_step, key)
        return clip.estimate(student, clip.noisy), clip.conditioning

    again, conditioning = all_at_once(student, batch)

    told = batch["stream"]["conditioning"]
    timed = {name: told[name] for name in ("audio_tokens", "audio_keep", "mode")}
    whole = Conditioning(**told | {name: x[:, :21] for name, x in timed.items()})
    reference, clips = jax.jit(make_reference)(student, whole), []
    state = init_stream(student, rollout, reference)
    steps = jax.jit(lambda *given: chunk_steps(student, rollout, *given))
    chunk = jax.jit(
        lambda given, level, told, frames, context: student.chunk(
            given, level, told, positions=frames, context=context
        )
    )
    noises = jax.random.normal(key, (9, 2, 2, 3, 2, 2, 4))
    for index in range(9):
        here = slice(3 * index, 3 * index + 3)
        inputs = whole.replace(
            condition=whole.condition[:, :3], **{name: x[:, here] for name, x in timed.items()}
        )
        context = state.contexts[exit_step]
        before, _, state = steps(reference, state, noises[index], inputs)
        level = jnp.full((2,), rollout.sigmas[exit_step])
        frames = jnp.arange(3) + min(3 * index, 18)
        inputs = inputs.replace(condition=jnp.take(whole.condition, frames, axis=1))
        v, _ = chunk(before[exit_step], level, inputs, frames, context)
        clips.append(clean_from_velocity(before[exit_step], v, level))
    streamed = jnp.concatenate([clips[0], *clips[-6:]], axis=1)
    assert conditioning.audio_tokens.shape[1] == 21
    np.testing.assert_allclose(again, streamed, rtol=1e-4, atol=1e-5)


def test_below_the_low_level_a_velocitys_error_weighs_as_the_clean_latents_does():
    sigma = jnp.array([0.1, 0.5, 1.0])
    assert np.allclose(level_weight(sigma, 0.5).ravel(), [0.2, 1.0, 1.0])
    assert np.array_equal(level_weight(sigma, 0.0).ravel(), np.ones(3))
