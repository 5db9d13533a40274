"""Distillation: the losses' gradients, what each update touches, and the long variant."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.training.tiny import CLIP, CONFIG, random_dit, videos
from tm_jax.data.encoded_videos import EncodedConfig
from tm_jax.diffusion.flow import add_noise, clean_from_velocity
from tm_jax.diffusion.sampler import Guidance
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.errors import InputError
from tm_jax.nn.masks import Bidirectional
from tm_jax.pretrained.weights import save_model
from tm_jax.training.dmd import DistillationLoss, distribution_matching_loss, draw_gap, score_gap
from tm_jax.training.flow_matching import NoisedClip, level_weight
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.ode_pairs import OdePairs
from tm_jax.training.paired_clips import PairedClips
from tm_jax.training.student_clips import estimate, long_clip
from tm_jax.training.student_experiment import StudentExperiment
from tm_jax.types import Conditioning


@pytest.fixture
def batch(tmp_path):
    world = videos(2)
    rng = np.random.default_rng(1)
    clean = rng.normal(size=(2, 21, 2, 2, 4)).astype(np.float16)
    save_file({"clean": clean}, tmp_path / "pairs")
    pairs = OdePairs(
        np.array([0, 1]), np.stack([np.arange(21)] * 2), (tmp_path / "pairs",), 2, 0, RolloutConfig()
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
    save_model(tmp_path / "teacher.safetensors", random_dit(getkey()), CONFIG)
    return experiment_in(tmp_path).build()


def test_gradient_of_the_matching_loss_is_the_score_gap(getkey, batch):
    teacher, critic = random_dit(getkey()), random_dit(getkey())
    clip, terms = batch["clip"], DistillationLoss(guidance=Guidance(audio=2.0))
    conditioning, estimate, key = Conditioning(**clip["conditioning"]), clip["latents"], getkey()
    noise, sigma = draw_gap(estimate, key, terms)
    noised = NoisedClip(estimate, noise, sigma, conditioning)
    gap = jax.jit(score_gap, static_argnums=3)(teacher, critic, noised, terms)
    gradient = jax.grad(distribution_matching_loss)(estimate, gap, conditioning, terms)
    np.testing.assert_allclose(gradient * estimate.size, gap, rtol=2e-4, atol=1e-6)
    weighed = dataclasses.replace(terms, face=2.0)
    partly = conditioning.replace(face_mask=conditioning.face_mask.at[:, 0].set(0.0))
    gradient = jax.grad(distribution_matching_loss)(estimate, gap, partly, weighed)
    face = partly.face_mask[:, None, :, :, None]
    np.testing.assert_allclose(gradient * estimate.size, (1 + face) * gap, rtol=2e-4, atol=1e-6)

    assert noise.std() > 0.9 and (sigma >= terms.lowest).all() and (sigma <= 1 - terms.lowest).all()
    noisy = add_noise(estimate, noise, sigma)
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
    noise, sigma = draw_gap(clip["latents"], getkey(), terms)
    noised = NoisedClip(clip["latents"], noise, sigma, Conditioning(**clip["conditioning"]))
    measure = jax.jit(score_gap, static_argnums=3)
    assert float(jnp.abs(measure(model, model, noised, terms)).max()) <= 1e-5
    broken = noised.replace(clean=clip["latents"].at[0, 0].set(jnp.nan))
    assert np.isfinite(measure(model, model, broken, terms)).all()


@pytest.mark.parametrize("clean_kv", [False, True])
def test_each_step_touches_only_what_it_trains(phase, batch, getkey, clean_kv):
    rollout = RolloutConfig(clean_kv=clean_kv)
    phase = dataclasses.replace(phase.config, rollout=rollout).build()
    host = lambda tree: [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if leaf.dtype == jnp.float32]
    before = host(phase.frozen.teacher())
    state = phase.start(jax.jit(phase.init)(getkey()))
    student, critic = host(state.student.model), host(state.critic.model)
    differ = lambda tree, old: any((new != was).any() for new, was in zip(host(tree), old, strict=True))
    assert not differ(state.student.ema, before) and not differ(state.critic.model, before)
    state, _ = phase.step(state, batch, 0)
    assert differ(state.student.model, student)
    assert not differ(state.critic.model, critic)
    assert not differ(phase.frozen.teacher(), before)
    student, critic = host(state.student.model), host(state.critic.model)
    state, metrics = phase.step(state, batch, 1)
    assert {"critic_loss", "dmd_loss", "regression_loss", "gap_norm", "student_grad_norm"} <= set(metrics)
    assert all(np.isfinite(value) for value in metrics.values())
    assert differ(state.critic.model, critic)
    assert differ(state.student.model, student)
    assert not differ(phase.frozen.teacher(), before)
    assert (phase.config.loop.folder / "warmup.safetensors").exists()


def test_a_student_starts_from_another_runs_warmup_and_its_critic_from_the_teacher(phase, tmp_path, getkey):
    warmed = random_dit(getkey())
    save_model(tmp_path / "warmup.safetensors", warmed, CONFIG)
    config = dataclasses.replace(phase.config, init_from=str(tmp_path / "warmup.safetensors"))
    started = config.build()
    state = started.start(jax.jit(started.init)(getkey()))
    same = lambda one, other: jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))
    assert same(state.student.model, warmed) and same(state.student.ema, warmed)
    assert same(state.critic.model, phase.frozen.teacher()) and not same(state.critic.model, warmed)
    missing = dataclasses.replace(config, init_from=str(tmp_path / "nowhere.safetensors")).build()
    with pytest.raises(InputError, match="nowhere"):
        missing.start(jax.jit(missing.init)(getkey()))


def test_every_program_is_known_without_a_weight_or_a_byte_of_data(tmp_path, batch, mesh8):
    """Their abstract arguments are those of the real ones, and every one of them can be lowered by itself."""
    experiment = dataclasses.replace(
        experiment_in(tmp_path), long_every=2, videos=EncodedConfig(size=16, reference_frames=21)
    )
    phase = experiment.build()
    with jax.set_mesh(mesh8):
        steps = phase.steps(mesh8)
        names = {"own_0", "own_1", "real_1", "long_0", "long_1"}
        assert names | {"pairs", "warmup", "critic", "gap", "student", "student_long"} == set(steps)
        told = phase.abstract_batch(mesh8)
        shape = lambda leaf: (leaf.shape[1:], leaf.dtype)
        assert jax.tree.map(shape, told) == jax.tree.map(shape, batch)
        for name in ("critic", "long_1", "student_long"):
            step, arguments = steps[name]
            step.lower(*arguments)
        # One program measures the gap of every kind of clip.
        own, long = (
            jax.eval_shape(partial(phase._draw_clip, source, 1), *steps[f"{source}_1"][1])
            for source in ("own", "long")
        )
        assert long.places is not None
        seen = lambda clip: jax.tree.map(shape, (clip.clean, clip.conditioning))
        assert seen(own) == seen(long) == jax.tree.map(shape, steps["gap"][1][2:4])


@pytest.mark.parametrize("exit_step,clean_kv", [(0, False), (1, False), (1, True)])
def test_long_clip_is_what_the_stream_made_at_pinned_positions(phase, batch, getkey, exit_step, clean_kv):
    """Denoised again all at once, the end of a long stream equals what streaming made of it."""
    from tm_jax.diffusion.rollout import chunk_steps, draw_noises, init_stream, make_reference

    student, key = random_dit(getkey()), getkey()
    rollout = RolloutConfig(correlation=0.5, clean_kv=clean_kv)

    @jax.jit
    def all_at_once(student, batch):
        clip = long_clip(student, rollout, batch, exit_step, key)
        return estimate(student, rollout, clip), clip.clean, clip.conditioning

    again, made, conditioning = all_at_once(student, batch)

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
    noises = draw_noises(key, rollout, (2, 27, 2, 2, 4))
    for index in range(9):
        here = slice(3 * index, 3 * index + 3)
        inputs = whole.replace(
            condition=whole.condition[:, :3], **{name: x[:, here] for name, x in timed.items()}
        )
        context = state.contexts[rollout.context_of(exit_step)]
        before, _, state = steps(reference, state, noises[:, :, here], inputs)
        level = jnp.full((2,), rollout.sigmas[exit_step])
        frames = jnp.arange(3) + min(3 * index, 18)
        inputs = inputs.replace(condition=jnp.take(whole.condition, frames, axis=1))
        v, _ = chunk(before[exit_step], level, inputs, frames, context)
        clips.append(clean_from_velocity(before[exit_step], v, level))
    streamed = jnp.concatenate([clips[0], *clips[-6:]], axis=1)
    assert conditioning["audio_tokens"].shape[1] == 21
    np.testing.assert_allclose(again, streamed, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made, streamed, rtol=1e-4, atol=1e-5)


def test_below_the_low_level_a_velocitys_error_weighs_as_the_clean_latents_does():
    sigma = jnp.array([0.1, 0.5, 1.0])
    assert np.allclose(level_weight(sigma, 0.5).ravel(), [0.2, 1.0, 1.0])
    assert np.array_equal(level_weight(sigma, 0.0).ravel(), np.ones(3))
