"""The full-size presets, without a byte of weights: parameters, state and shards by shapes alone."""

import importlib
import math

import jax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType

import configs
from tm_jax.config import from_json, load, to_json
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae_config import VAEConfig
from tm_jax.sharding import MESH_AXES, batch_sharding, shardings_like
from tm_jax.training.optim import make_optimizer
from tm_jax.training.state import TrainState

# Devices, parameters in billions, and the most GB of training state on one of them.
SIZES = {"wan14b": (64, 17.66, 4.7), "wan1b": (8, 1.66, 3.5)}


def abstract_mesh(preset, devices):
    return AbstractMesh(preset.loop.mesh.shape(devices), MESH_AXES, axis_types=(AxisType.Auto,) * 4)


def bytes_on_one_device(tree, mesh, rules):
    shardings = jax.tree.leaves(shardings_like(tree, mesh, rules))
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(tree), shardings, strict=True)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_full_size_preset_builds_abstractly(size, role):
    preset = importlib.import_module(f"configs.{size}_{role}").PRESET
    devices, billions, most = SIZES[size]
    if role == "teacher":
        state = jax.eval_shape(preset.build().init, jax.random.key(0))
    else:
        # The phase reads the teacher's file when it is built: its student alone is made here.
        make = lambda key: TrainState.create(
            DiT(preset.model, rngs=nnx.Rngs(key)), make_optimizer(preset.optim), key
        )
        state = jax.eval_shape(make, jax.random.key(0))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.model))
    assert count / 1e9 == pytest.approx(billions, abs=0.01)
    mesh = abstract_mesh(preset, devices)
    held = bytes_on_one_device(state, mesh, preset.loop.rules)
    # Model, average and two moments in float32, with nothing large left unsplit.
    assert 16 * count / devices <= held < most * 1e9
    assert batch_sharding(mesh, preset.loop.rules).shard_shape((preset.loop.batch_size,)) == (1,)


@pytest.mark.parametrize("size", SIZES)
def test_the_parts_of_a_preset_fit_each_other(size):
    teacher, student = (
        importlib.import_module(f"configs.{size}_{role}").PRESET for role in ("teacher", "student")
    )
    model, clip = teacher.model, teacher.clip
    assert model == student.model and clip == student.clip and teacher.vae == student.vae
    assert (model.audio_left, model.audio_lookahead) == (clip.audio_left, clip.audio_lookahead)
    assert (model.text_length, model.text_width) == (clip.text_length, clip.text_width)
    assert model.trained_frames == clip.frames == teacher.videos.reference_frames
    assert (model.dtype, model.remat, model.attention) == ("bfloat16", "full", "auto")
    assert model.in_channels == 2 * VAEConfig().z_dim + 4
    assert student.teacher == teacher.loop.folder / "weights.safetensors"
    assert [round(sigma, 2) for sigma in student.rollout.sigmas] == [1.0, 0.75]
    for preset in (teacher, student):
        assert from_json(type(preset), to_json(preset)) == preset


@pytest.mark.parametrize("name", ["wan14b_teacher", "wan1b_student"])
def test_help_lists_the_fields(name, capsys):
    with pytest.raises(SystemExit) as end:
        load(configs, [name, "--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert "--model.width" in told and "--loop.mesh.fsdp" in told
    assert "--init-from" in told and ("--lora" in told) == name.endswith("student")


def test_the_14b_preset_is_wan_s_size_with_sound():
    model = importlib.import_module("configs.wan14b_teacher").MODEL
    assert model == DiTConfig()
