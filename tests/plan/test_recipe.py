"""A preset on a topology: mesh, batch and parts, how often each program runs, and what a step costs."""

import collections
import dataclasses
import importlib
import math

import jax
import pytest
from flax import nnx

from tm_jax.errors import InputError
from tm_jax.models.dit import DiT
from tm_jax.plan.hardware import topology
from tm_jax.plan.recipe import clips_of, hours, mesh_config, passes_of, placed_on, rooflines
from tm_jax.plan.roofline import parameters
from tm_jax.sharding import MeshConfig

STUDENT = importlib.import_module("configs.wan14b_student").PRESET
TEACHER = importlib.import_module("configs.wan14b_teacher").PRESET
TINY = importlib.import_module("configs.tiny_student").PRESET


def test_a_mesh_by_its_text():
    assert mesh_config("fsdp=16,tensor=2") == MeshConfig(fsdp=16, tensor=2)
    assert mesh_config("data=2") == MeshConfig(data=2)
    for text in ("fsdp", "fsdp=x", "expert=2", "fsdp=0"):
        with pytest.raises(InputError, match=f"--mesh {text}"):
            mesh_config(text)


@pytest.mark.parametrize(
    ("where", "mesh", "clips", "batch", "parts"),
    [
        ("v5p:4x4x4", "fsdp=32,tensor=2", 1, 32, 1),
        ("gpu:h100:1x8", "fsdp=4,tensor=2", 1, 32, 8),
        ("gpu:h100:1x8", "fsdp=4,tensor=2", 2, 32, 4),
        ("v5p:4x4x4", "fsdp=64", 1, 64, 1),
        ("gpu:h100:3x8", "fsdp=24", 1, 48, 2),
    ],
)
def test_the_batch_stays_the_preset_s_in_as_many_parts_as_it_takes(where, mesh, clips, batch, parts):
    loop = placed_on(TEACHER, topology(where), mesh_config(mesh), clips).loop
    assert (loop.batch_size, loop.accumulate) == (batch, parts)


def test_a_mesh_that_does_not_fill_the_topology_is_refused():
    with pytest.raises(InputError, match="does not fill 64 devices: change --mesh"):
        placed_on(TEACHER, topology("v5p:4x4x4"), mesh_config("fsdp=3"))


MIXED = dataclasses.replace(STUDENT, critic_mixed=True)


@pytest.mark.parametrize("preset", [STUDENT, TINY, MIXED], ids=["wan14b", "tiny", "mixed"])
def test_how_often_each_program_runs_is_what_training_draws(preset):
    drawn = collections.Counter()
    loop = dataclasses.replace(preset.loop, steps=preset.warmup + 60_000)
    preset = dataclasses.replace(preset, loop=loop, critic_lead=1_000)
    for index in range(preset.warmup, preset.loop.steps):
        turn = preset.turn(index)
        drawn["critic"] += 1
        step, source = preset.draw_for_critic(index)
        drawn[f"{source}_{step}"] += 1
        if turn is not None:
            exit_step, kind = preset.draw(index, turn)
            drawn[f"{kind}_{exit_step}"] += 1
            drawn["gap"] += 1
            drawn["student_long" if kind == "long" else "student"] += 1
    if not preset.critic_mixed:
        assert (step, source) == (preset.rollout.steps - 1, "own")
    expected = clips_of(preset, batch=1)
    assert expected.pop("pairs") == preset.pairs.count
    assert expected.pop("warmup") == preset.warmup
    assert expected.keys() == drawn.keys()
    for name, count in drawn.items():
        assert expected[name] == pytest.approx(count, rel=0.15), name


def test_every_program_has_its_passes_and_time():
    placed = placed_on(STUDENT, topology("v5p:4x4x4"))
    assert (
        clips_of(placed, 32).keys()
        <= passes_of(placed).keys()
        == rooflines(placed, topology("v5p:4x4x4")).keys()
    )


@pytest.mark.parametrize("preset", [TEACHER, TINY], ids=["wan14b", "tiny"])
def test_the_parameters_that_are_counted(preset):
    model = jax.eval_shape(lambda: DiT(preset.model, rngs=nnx.Rngs(0)))
    exact = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model))
    assert sum(parameters(preset.model)) == pytest.approx(exact, rel=0.02)


def test_where_the_time_goes():
    where = topology("v5p:4x4x4")
    at = lambda mesh, **changes: rooflines(
        placed_on(dataclasses.replace(TEACHER, **changes), where, mesh_config(mesh)), where
    )["update"]
    split, whole = at("fsdp=32,tensor=2"), at("fsdp=64")
    for one in (split, whole):
        assert one.mfu + sum(one.losses().values()) == pytest.approx(1)
    # Two devices to a layer cost traffic that one has not.
    assert split.traffic.tensor > 0 == whole.traffic.tensor
    assert split.mfu < whole.mfu
    # Parameters in bfloat16 twice, gradients in float32 once, all but a device's own share.
    each = sum(parameters(TEACHER.model)) * (1 - 1 / 64)
    assert whole.traffic.fsdp == pytest.approx(8 * each)
    kept = at("fsdp=64", model=dataclasses.replace(TEACHER.model, remat="products"))
    assert kept.flops == whole.flops and kept.executed < whole.executed


def test_chip_hours_do_not_depend_on_parts():
    """A batch in eight parts on an eighth of the chips costs as many chip-hours, but for traffic."""
    cost = {}
    for name in ("gpu:h100:8x8", "gpu:h100:1x8"):
        placed = placed_on(TEACHER, topology(name))
        cost[name] = hours(
            placed, topology(name), rooflines(placed, topology(name)), TEACHER.loop.batch_size
        ).chips
    assert cost["gpu:h100:1x8"] == pytest.approx(cost["gpu:h100:8x8"], rel=0.1)
