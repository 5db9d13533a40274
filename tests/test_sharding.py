"""The mesh and the rules that place parameters on it."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType

from tm_jax.sharding import (
    MeshConfig,
    ShardingRules,
    keep_sharded,
    make_mesh,
    platform,
    shard,
    shardings_like,
)
from tm_jax.training.optim import OptimConfig, make_optimizer
from tm_jax.training.state import TrainState


def test_minus_one_takes_the_devices_that_are_left():
    assert MeshConfig(data=2, fsdp=-1, tensor=2).shape(8) == (2, 2, 1, 2)
    with pytest.raises(ValueError, match="does not fill 8 devices"):
        MeshConfig(data=3).shape(8)


def test_two_names_on_one_mesh_axis_raise():
    with pytest.raises(ValueError, match="land twice"):
        ShardingRules().spec(("mlp", "heads"))


def test_parameters_follow_their_names_and_stacked_layers_get_a_layer_axis(mesh8):
    def build(key):
        return nnx.Linear(8, 16, rngs=nnx.Rngs(key), kernel_metadata={"axes": ("embed", "mlp")})

    stacked = jax.eval_shape(lambda: jax.vmap(build)(jax.random.split(jax.random.key(0), 3)))
    shardings = shardings_like(stacked, mesh8)
    placed = jax.jit(
        lambda: jax.vmap(build)(jax.random.split(jax.random.key(0), 3)), out_shardings=shardings
    )()
    assert tuple(placed.kernel[...].sharding.spec) == (None, ("fsdp", "context"), "tensor")
    assert placed.kernel[...].addressable_shards[0].data.shape == (3, 4, 8)


def test_a_step_s_state_is_kept_where_its_names_say(mesh8):
    """Random keys and masked moments included."""
    names = {"axes": ("embed", "mlp")}
    tx = make_optimizer(OptimConfig(name="muon", clip=1.0))

    def made(key):
        model = nnx.Linear(8, 16, rngs=nnx.Rngs(key), kernel_metadata=names)
        return keep_sharded(TrainState.create(model, tx, key))

    with jax.set_mesh(mesh8):
        state = jax.jit(made)(jax.random.key(0))
    wanted = shardings_like(state, mesh8)
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    assert state.model.kernel[...].addressable_shards[0].data.shape == (4, 8)


def test_activation_constraint_is_obeyed(mesh8):
    with jax.set_mesh(mesh8):
        y = jax.jit(lambda x: shard(x, "batch", None))(jnp.ones((8, 3)))
    assert y.addressable_shards[0].data.shape == (2, 3)


@dataclasses.dataclass(frozen=True)
class Chip:
    """As much of a TPU's core as the order of a mesh asks for."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v5"
    process_index: int = 0
    core_on_chip: int = 0
    num_cores: int = 1
    client: None = None


def test_several_slices_share_the_data_axis():
    places = itertools.product(range(2), range(2), range(2), range(2))
    chips = [Chip(number, slice, (x, y, z)) for number, (slice, z, y, x) in enumerate(places)]
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, context=2, tensor=2), chips)
    assert [{chip.slice_index for chip in half.flat} for half in mesh.devices] == [{0}, {1}]
    with pytest.raises(ValueError, match="data = 1 does not split over 2 slices"):
        make_mesh(MeshConfig(data=1, fsdp=4, context=2, tensor=2), chips)


def test_the_mesh_says_where_a_program_will_run():
    assert platform() == "cpu"
    described = jax.sharding.AbstractDevice(device_kind="TPU v5", num_cores=1, platform="tpu")
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,), abstract_device=described)
    with jax.sharding.use_abstract_mesh(mesh):
        assert platform() == "tpu"


def test_mesh_has_the_four_axes():
    mesh = make_mesh(MeshConfig(data=2, context=2, fsdp=1, tensor=2))
    assert mesh.shape == {"data": 2, "fsdp": 1, "context": 2, "tensor": 2}
