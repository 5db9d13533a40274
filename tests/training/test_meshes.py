"""Every step of both phases on a mesh, in parts of a batch, equals the same on one device in one part."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import wan14b_student
from tests.training import tiny_distillation as tiny
from tm_jax.pretrained.weights import named_leaves
from tm_jax.sharding import MeshConfig, ShardingRules, batch_sharding, make_mesh, shardings_like
from tm_jax.training.abstract import abstract_state, placed
from tm_jax.training.networks import frozen_dit
from tm_jax.training.optim import OptimConfig

STILL = OptimConfig(lr=0.0)
"""Parameters stay, so that moments are the gradients and nothing else."""


@pytest.fixture(autouse=True, scope="module")
def quick_compiling():
    """XLA without its optimisations: compiling is what these tests would spend their time on."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("world") / "prepared"
    tiny.prepare(made)
    return made


def teacher(folder, **loop):
    return dataclasses.replace(tiny.teacher(folder, **loop), optim=STILL)


def student(folder, **loop):
    """Warm-up, an own clip, then a long one: every program of a distillation."""
    made = tiny.student(folder, **loop)
    return dataclasses.replace(
        made,
        rollout=dataclasses.replace(made.rollout, steps=1),
        optim=STILL,
        warmup_optim=STILL,
        critic_optim=STILL,
        long_every=2,
    )


def figures(experiment, steps, mesh_config, devices):
    """Metrics of the steps, moments of the optimizers after them, and the last state."""
    phase = experiment.build()
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    with jax.set_mesh(mesh):
        data = phase.dataset()
        rows = [data[index] for index in range(8)]
        batch = jax.tree.map(lambda *parts: np.stack(parts), *rows)
        batch = jax.device_put(batch, batch_sharding(mesh, experiment.loop.rules))
        shardings = shardings_like(jax.eval_shape(phase.init, jax.random.key(0)), mesh)
        state = phase.start(jax.jit(phase.init, out_shardings=shardings)(jax.random.key(0)))
        metrics = []
        for index in range(steps):
            state, found = phase.step(state, batch, index)
            metrics.append({name: float(value) for name, value in found.items()})
    names, leaves, _ = named_leaves(optimizers(state))
    found = zip(names, leaves, strict=True)
    moments = {name: np.asarray(leaf) for name, leaf in found if leaf.dtype == np.float32}
    return metrics, moments, (state, shardings, phase, mesh)


def optimizers(state):
    return (
        state.opt_state if hasattr(state, "opt_state") else (state.student.opt_state, state.critic.opt_state)
    )


def compare(make, folder, steps, mesh_config=MeshConfig(data=2, fsdp=2, tensor=2), devices=8, **loop):
    metrics, moments, _ = figures(make(folder), steps, MeshConfig(), 1)
    others, theirs, placed = figures(make(folder, **loop), steps, mesh_config, devices)
    for ours, other in zip(metrics, others, strict=True):
        assert ours.keys() == other.keys()
        np.testing.assert_allclose([other[name] for name in ours], list(ours.values()), rtol=2e-4)
    assert max(np.abs(one).max() for one in moments.values()) > 1e-3
    for name, ours in moments.items():
        np.testing.assert_allclose(theirs[name], ours, rtol=2e-3, atol=1e-5 * max(1e-3, np.abs(ours).max()))
    return placed


def assert_placed(state, shardings, phase, mesh):
    """Every array lies where its names say, and no large one is whole on a device unless all devices are
    replicas."""
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    if mesh.shape["data"] == mesh.size:
        return
    for name, (_, arguments) in phase.steps(mesh).items():
        for leaf in jax.tree.leaves(arguments):
            shard = leaf.sharding.shard_shape(leaf.shape)
            assert np.prod(shard) < 2**12 or shard != leaf.shape, f"{name} holds {leaf.shape} whole"


def test_the_teachers_update(folder):
    assert_placed(*compare(teacher, folder, 1, accumulate=2))


def test_every_program_of_a_distillation(folder):
    assert_placed(*compare(student, folder, 3, accumulate=2))


def test_nothing_large_is_whole_on_a_device_at_full_size(mesh8):
    held_in_parts(mesh8)


def held_in_parts(mesh):
    """Student, critic and teacher of 18 B, without a number of them."""
    phase = wan14b_student.PRESET.build()
    state = abstract_state(phase, mesh, ShardingRules())
    teacher = placed(jax.eval_shape(lambda: frozen_dit(wan14b_student.MODEL)), mesh, ShardingRules())
    count = lambda tree: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
    assert count(teacher) > 17e9 and count(state) > 7 * count(teacher)
    for leaf in jax.tree.leaves((state, teacher)):
        held = np.prod(leaf.sharding.shard_shape(leaf.shape))
        assert np.prod(leaf.shape) <= 4e6 or held <= np.prod(leaf.shape) / 2, leaf
    kinds = {leaf.dtype for leaf in jax.tree.leaves(teacher.blocks.feed_forward)}
    assert kinds == {np.dtype("float32"), np.dtype(jax.numpy.bfloat16)}


def every_program(folder, **loop):
    """A distillation that draws clips from all sources at both noise levels, each program at least twice."""
    made = tiny.student(folder, **loop)
    return dataclasses.replace(
        made,
        optim=STILL,
        warmup_optim=STILL,
        critic_optim=STILL,
        warmup=2,
        exit_first=0.5,
        real_start=0.5,
        long_every=3,
    )


def steps_for(experiment):
    """Steps until every source of a clip was drawn twice."""
    counts, index = dict.fromkeys(experiment.sources, 0), experiment.warmup
    while min(counts.values()) < 2:
        step, source = experiment.draw(index, index - experiment.warmup)
        counts[source, step] += 1
        index += 1
    return index


def furthest(ours, theirs):
    """The largest difference of arrays by name, in parts of the array's largest element or, where that is
    smaller, of a thousandth of all arrays' largest; and where it is."""
    largest = max(float(np.abs(a).max()) for a in ours.values())
    apart = {
        name: float(np.abs(a - theirs[name]).max() / max(1e-3 * largest, np.abs(a).max()))
        for name, a in ours.items()
    }
    worst = max(apart, key=apart.get)
    return apart[worst], worst


def main() -> None:
    """All meshes of the issue, one after the other: ``python -m tests.training.test_meshes FOLDER``.

    Every program of both phases runs twice on each, so that one that is compiled again is caught.
    """
    import sys
    from pathlib import Path

    made = Path(sys.argv[1])
    if not made.exists():
        tiny.prepare(made)
    # data × fsdp × context × tensor; on the last one the heads do not divide, so that keys are gathered.
    meshes = ((8, 1, 1, 1), (1, 8, 1, 1), (1, 2, 2, 2), (2, 1, 2, 2), (1, 1, 4, 2))
    for make in (teacher, every_program):
        steps = 2 if make is teacher else steps_for(make(made))
        metrics, moments, _ = figures(make(made), steps, MeshConfig(), 1)
        by_name = lambda found: {
            f"{name} of step {step}": np.array(value)
            for step, one in enumerate(found, 1)
            for name, value in one.items()
        }
        for sizes in meshes:
            others, theirs, state = figures(make(made), steps, MeshConfig(*sizes), 8)
            assert_placed(*state)
            loss, where = furthest(by_name(metrics), by_name(others))
            moment, at = furthest(moments, theirs)
            print(
                f"{make.__name__} on {sizes}, {steps} steps: figures differ by at most {loss:.1e} ({where}), "
                f"moments of the gradients by {moment:.1e} ({at})",
                flush=True,
            )
            assert max(loss, moment) < 1e-4
    for sizes in meshes[1:]:  # replicas of the data hold whole models
        held_in_parts(make_mesh(MeshConfig(*sizes)))
        print(f"18 B on {sizes}: nothing above 4 M elements is whole on a device", flush=True)


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_disable_most_optimizations", True)
    main()
