"""The transformer on meshes: the same values and gradients, and every parameter where its names say."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from tests.models.dit_cases import SMALL, abstract, build, inputs
from tm_jax.errors import InputError
from tm_jax.models.dit_config import DiTConfig
from tm_jax.nn.masks import Bidirectional, SparseCausal
from tm_jax.pretrained.names import paths
from tm_jax.sharding import MESH_AXES, MeshConfig, batch_sharding, check_mesh, make_mesh, shardings_like

CONFIG = dataclasses.replace(SMALL, heads=4)
SHAPE = {"batch": 8, "frames": 4, "height": 2, "width": 2}
MESHES = [(8, 1, 1, 1), (1, 8, 1, 1), (1, 2, 2, 2), (2, 1, 2, 2)]


def run(model, args):
    """Velocities under both patterns, and the gradient of their energy."""

    def energy(model):
        both = [model(*args, pattern=pattern) for pattern in (Bidirectional(), SparseCausal(1))]
        return sum(jnp.square(v).mean() for v in both), both

    return jax.grad(energy, has_aux=True)(model)


@pytest.fixture(autouse=True, scope="module")
def quick_compiling():
    """XLA without its optimisations: compiling is what these tests would spend their time on."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def single():
    model, args = build(CONFIG), inputs(CONFIG, np.random.default_rng(0), **SHAPE)
    gradients, both = jax.jit(run)(model, args)
    return model, args, gradients, both


@pytest.mark.parametrize("sizes", MESHES, ids=lambda sizes: "x".join(map(str, sizes)))
def test_values_and_gradients_are_those_of_one_device(sizes, single, relative_error):
    model, args, gradients, both = single
    mesh = make_mesh(MeshConfig(*sizes))
    wanted = shardings_like(model, mesh)
    with jax.set_mesh(mesh):
        placed = jax.device_put(model, wanted)
        step = jax.jit(run, out_shardings=(wanted, batch_sharding(mesh)))
        shared, outputs = step(placed, jax.device_put(args, batch_sharding(mesh)))
    for ours, alone in zip(outputs, both, strict=True):
        assert relative_error(ours, alone) < 1e-5
    largest = max(np.linalg.norm(v[...]) for v in paths(gradients).values())
    for path, gradient in paths(gradients).items():
        ours = paths(shared)[path][...]
        if np.linalg.norm(gradient[...]) < 1e-6 * largest:
            # A key's bias moves all logits of a query alike: its gradient is zero but for rounding.
            assert np.linalg.norm(ours) < 1e-5 * largest, path
        else:
            assert relative_error(ours, gradient[...]) < 1e-4, path


@pytest.mark.parametrize("sizes", [(1, 32, 1, 2), (2, 8, 4, 2), (1, 4, 8, 4)])
def test_every_parameter_of_the_full_model_is_split_over_all_that_share_it(sizes):
    mesh = AbstractMesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 4)
    model = abstract(DiTConfig())
    placed = jax.tree.leaves(shardings_like(model, mesh))
    for (path, variable), sharding in zip(paths(model).items(), placed, strict=True):
        names = variable.get_metadata().get("axes")
        ways = math.prod(variable.shape) / math.prod(sharding.shard_shape(variable.shape))
        shared = {"embed": sizes[1] * sizes[2], "mlp": sizes[3], "heads": sizes[3]}
        assert ways == math.prod(shared.get(name, 1) for name in names or ()), path
        assert math.prod(sharding.shard_shape(variable.shape)) <= 4e6 or ways > 1, path


@pytest.mark.parametrize(
    "sizes,sentence",
    [
        (
            {"tensor": 3},
            "mesh of tensor 3 does not split the 40 attention heads: choose among 1, 2, 4, 5,",
        ),
        ({"context": 6}, "mesh of context 6 does not split the 1024 tokens of a latent frame"),
        ({"fsdp": 3, "context": 2}, "mesh of fsdp 3 × context 2 does not split the 5120 channels of a token"),
    ],
)
def test_a_mesh_that_does_not_divide_the_model_is_told(sizes, sentence):
    config = MeshConfig(**{"fsdp": 1, **sizes})
    mesh = AbstractMesh(config.shape(math.prod(sizes.values())), MESH_AXES)
    with pytest.raises(InputError, match=sentence):
        check_mesh(mesh, DiTConfig().mesh_sizes(64, 64))
    check_mesh(AbstractMesh((1, 32, 1, 2), MESH_AXES), DiTConfig().mesh_sizes(64, 64) | {"batch": 32})
