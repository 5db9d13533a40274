"""LoRA: what is trained, what is shipped, what a checkpoint holds, and that the mesh changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import wan14b_student
from tests.models.dit_cases import build
from tests.training import tiny_distillation as tiny
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.nn.masks import SparseCausal
from tm_jax.plan.programs import programs
from tm_jax.plan.roofline import adapters as adapters_of_rank
from tm_jax.pretrained.names import paths
from tm_jax.pretrained.sources import kernels_in
from tm_jax.pretrained.weights import load_model, named_leaves, save_model, save_sharded
from tm_jax.sharding import MeshConfig, ShardingRules, make_mesh, shardings_like
from tm_jax.training.abstract import abstract_state
from tm_jax.training.checkpoint import Checkpoints
from tm_jax.training.lora import Adapters, merged
from tm_jax.types import Conditioning

RANK = 3


@pytest.fixture(autouse=True, scope="module")
def quick_compiling():
    """XLA without its optimisations: compiling is what these tests would spend their time on."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A distillation of one denoising step, whose warm-up is one step."""
    folder = tmp_path_factory.mktemp("lora")
    save_model(folder / "teacher.safetensors", build(tiny.MODEL, 3), tiny.MODEL)
    made = tiny.student(folder, run_dir=folder / "run")
    return dataclasses.replace(made, lora=RANK, rollout=dataclasses.replace(made.rollout, steps=1))


def batch_of(phase, mesh):
    """Random clips, pairs and streams."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jax.device_put(rng.normal(size=leaf.shape).astype(leaf.dtype), leaf.sharding),
        phase.abstract_batch(mesh),
    )


def begun(phase, mesh):
    """A new state that is no longer the teacher."""
    shardings = shardings_like(jax.eval_shape(phase.init, jax.random.key(0)), mesh)
    state = phase.start(jax.jit(phase.init, out_shardings=shardings)(jax.random.key(0)))
    student = state.student.replace(model=with_changes(state.student.model, 0.1))
    critic = state.critic.replace(model=with_changes(state.critic.model, 0.1))
    return state.replace(student=student, critic=critic)


def warmed(experiment, config, devices):
    """The phase, its mesh, what it trained at first, and after the warm-up the state and figures."""
    phase, mesh = experiment.build(), make_mesh(config, jax.devices()[:devices])
    with jax.set_mesh(mesh):
        state = begun(phase, mesh)
        first = arrays((state.student.model, state.critic.model))
        state, metrics = phase.step(state, batch_of(phase, mesh), 0)
    figures = float(metrics["loss"]), float(metrics["student_grad_norm"])
    return phase, mesh, first, state, figures, arrays(state.student.opt_state)


@pytest.fixture(scope="module")
def alone(experiment, quick_compiling):
    """A warm-up on one device."""
    return warmed(experiment, MeshConfig(), 1)


def with_changes(adapters, scale):
    """The adapters with second factors that are not zero."""
    rng = np.random.default_rng(1)

    def one(path, leaf):
        moved = scale * rng.normal(size=leaf.shape).astype(np.float32)
        return jax.device_put(moved, leaf.sharding) if "up" in jax.tree_util.keystr(path) else leaf

    return jax.tree_util.tree_map_with_path(one, adapters)


def arrays(tree):
    names, leaves, _ = named_leaves(tree)
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    found = zip(names, leaves, strict=True)
    return {name: np.asarray(jax.random.key_data(x) if is_key(x) else x) for name, x in found}


def test_without_an_update_it_is_the_frozen_transformer_bit_for_bit(getkey):
    frozen = kernels_in("bfloat16")(build(dataclasses.replace(tiny.MODEL, dtype="bfloat16"), 3))
    adapters = Adapters(frozen, RANK, getkey())
    same = merged(frozen, adapters)
    assert same.config == frozen.config
    for ours, theirs in zip(jax.tree.leaves(same), jax.tree.leaves(frozen), strict=True):
        assert ours.dtype == theirs.dtype and (ours == theirs).all()
    changed, others = paths(merged(frozen, with_changes(adapters, 0.1))), paths(frozen)
    differ = {name for name, leaf in changed.items() if (leaf[...] != others[name][...]).any()}
    assert differ == set(adapters.of)
    parts = ("self_attention", "cross_attention", "feed_forward", "image", "audio")
    assert len(differ) == 14 and {name.split(".")[1] for name in differ} == set(parts)


def test_gradients_of_the_factors_are_the_kernels(getkey):
    """For a loss ⟨C, W + A·B⟩: dA = C·Bᵀ and dB = Aᵀ·C, layer by layer."""
    base, name = build(tiny.MODEL, 3), "blocks.feed_forward.inner.kernel"
    adapters = with_changes(Adapters(base, RANK, getkey()), 1.0)
    weights = np.asarray(jax.random.normal(getkey(), paths(base)[name].shape))
    loss = lambda adapters: jnp.sum(weights * paths(merged(base, adapters))[name][...])
    found = jax.grad(loss)(adapters).of
    down, up = np.asarray(adapters.of[name].down[...]), np.asarray(adapters.of[name].up[...])
    np.testing.assert_allclose(found[name].down[...], weights @ up.transpose(0, 2, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[name].up[...], down.transpose(0, 2, 1) @ weights, rtol=1e-4, atol=1e-5)
    assert not any(np.any(leaf) for other in found if other != name for leaf in jax.tree.leaves(found[other]))


def test_a_distillation_trains_changes_alone_and_goes_on_from_a_checkpoint(experiment, alone):
    """Critic and student; on from a checkpoint as if nothing was; what is shipped is what ran."""
    phase, mesh, first, state, _, _ = alone
    batch, folder = batch_of(phase, mesh), experiment.loop.folder
    with jax.set_mesh(mesh):
        teacher = arrays(phase.frozen.teacher())
        checkpoints = Checkpoints(
            folder / "checkpoints", keep=1, config=experiment, same=("model",), best="", say=print
        )
        checkpoints.save(1, state, {}, {})
        state, metrics = phase.step(state, batch, 1)
        assert all(np.isfinite(float(value)) for value in metrics.values())
        after, student = arrays(state), phase.weights(state)
        shapes = jax.eval_shape(phase.init, jax.random.key(0))
        _, again, _ = checkpoints.restore(shapes, shardings_like(shapes, mesh))
        checkpoints.close()
        again, _ = phase.step(again, batch, 1)
        assert all((after[name] == leaf).all() for name, leaf in arrays(again).items())

        # Every factor of both moved, and nothing that is frozen.
        moved = arrays((state.student.model, state.critic.model))
        assert all((leaf != first[name]).any() for name, leaf in moved.items())
        assert all((teacher[name] == leaf).all() for name, leaf in arrays(phase.frozen.teacher()).items())
        assert not any(leaf.size > 2 * 32 * RANK for leaf in jax.tree.leaves(state))

        save_sharded(folder / "weights.safetensors", student, experiment.model, {}, step=2)
        shipped = load_model(folder / "weights.safetensors", DiT, DiTConfig)
        average, weights = state.student.ema.of, arrays(shipped)
        for name, leaf in arrays(phase.frozen.teacher()).items():
            if name in average:
                down, up = (
                    np.asarray(part[...], np.float64) for part in (average[name].down, average[name].up)
                )
                leaf = leaf + down @ up
            assert np.abs(weights[name] - leaf).max() <= 1e-6, name

        def says(model):
            clip = batch["clip"]
            told, level = Conditioning(**clip["conditioning"]), jnp.ones(8)
            return model(clip["latents"], level, told, pattern=SparseCausal(1))

        inside = jax.jit(lambda base, adapters: says(merged(base, adapters)))
        ran = inside(phase.frozen.teacher(), state.student.ema)
        assert float(jnp.abs(jax.jit(says)(shipped) - ran).max()) <= 1e-6


def test_a_student_with_a_start_of_its_own_changes_that_and_its_critic_the_teacher(experiment, tmp_path):
    own = build(tiny.MODEL, 4)
    save_model(tmp_path / "own.safetensors", own, tiny.MODEL)
    config = dataclasses.replace(experiment, init_from=str(tmp_path / "own.safetensors"))
    phase, mesh = config.build(), make_mesh(devices=jax.devices()[:1])
    same = lambda one, other: jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))
    assert same(phase.frozen.of_student(), own) and same(phase.frozen.of_critic(), build(tiny.MODEL, 3))
    found, kept = programs(config, mesh)
    assert kept["frozen student"] == kept["teacher"] > kept["parameters"] == kept["critic's parameters"]
    beside = sum(size for kind, size in kept.items() if "critic" in kind or kind == "teacher")
    assert found["student"].beside == pytest.approx(beside, rel=1e-4)
    assert "frozen student" not in programs(experiment, mesh)[1]


def test_a_mesh_changes_nothing(experiment, alone):
    """The warm-up of eight devices is that of one, and every factor lies where its names say."""
    *_, figures, ours = alone
    phase, mesh, _, state, others, theirs = warmed(experiment, MeshConfig(data=2, fsdp=2, tensor=2), 8)
    shapes = jax.eval_shape(phase.init, jax.random.key(0))
    placed = zip(jax.tree.leaves(state), jax.tree.leaves(shardings_like(shapes, mesh)), strict=True)
    assert all(leaf.sharding.is_equivalent_to(where, leaf.ndim) for leaf, where in placed)
    np.testing.assert_allclose(others, figures, rtol=1e-5)
    for name, leaf in ours.items():
        np.testing.assert_allclose(theirs[name], leaf, rtol=2e-3, atol=1e-5 * max(1e-3, np.abs(leaf).max()))


def test_nothing_large_is_whole_on_a_device_at_full_size(mesh8):
    """The changes of 18 B at rank 64: 0.4 B parameters each, in as many parts as the kernels."""
    preset = dataclasses.replace(wan14b_student.PRESET, lora=64)
    state = abstract_state(preset.build(), mesh8, ShardingRules())
    for leaf in jax.tree.leaves(state):
        held = np.prod(leaf.sharding.shard_shape(leaf.shape))
        assert np.prod(leaf.shape) <= 1e6 or held == np.prod(leaf.shape) / 4, leaf
    count = sum(leaf.size for leaf in jax.tree.leaves(state.student.model))
    assert count == adapters_of_rank(preset.model, 64)
