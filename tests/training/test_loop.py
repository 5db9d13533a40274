"""The loop on a phase that fits a line: resuming, other meshes, interruption, a loss that is not finite."""

import dataclasses
import signal
from pathlib import Path

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tm_jax.sharding import MeshConfig
from tm_jax.training.loop import LoopConfig, train
from tm_jax.training.optim import OptimConfig, make_optimizer
from tm_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class LineConfig:
    inputs: int = 4
    width: int = 8


class Line(nnx.Module):
    def __init__(self, config: LineConfig, *, rngs: nnx.Rngs):
        self.config = config
        names = {"axes": ("embed", "mlp")}
        self.hidden = nnx.Linear(config.inputs, config.width, rngs=rngs, kernel_metadata=names)
        self.out = nnx.Linear(config.width, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))[:, 0]


class Points:
    def __init__(self, count, inputs):
        self.count, self.inputs = count, inputs

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        x = np.random.default_rng(index).normal(size=self.inputs).astype(np.float32)
        return {"x": x, "y": np.float32(x.sum())}


@dataclasses.dataclass(frozen=True)
class Experiment:
    loop: LoopConfig
    model: LineConfig = LineConfig()
    optim: OptimConfig = OptimConfig(lr=1e-2, warmup_steps=2, clip=1.0, weight_decay=0.01)
    nan_at: int = -1
    interrupt_at: int = -1

    def build(self):
        return Fit(self)


class Fit:
    def __init__(self, config: Experiment):
        self.config = config
        self.tx = make_optimizer(config.optim)
        self._update = jax.jit(chex.assert_max_traces(self._pure_update, n=1), donate_argnums=0)

    def init(self, key):
        weights, noise = jax.random.split(key)
        return TrainState.create(Line(self.config.model, rngs=nnx.Rngs(weights)), self.tx, noise)

    def _pure_update(self, state, batch, scale):
        noise = 0.01 * jax.random.normal(state.draw(), batch["x"].shape)

        def loss(model):
            return jnp.mean((model(batch["x"] + noise) - batch["y"]) ** 2)

        value, gradients = jax.value_and_grad(loss)(state.model)
        return state.apply(gradients, self.tx, decay=0.99), {"loss": value * scale}

    def step(self, state, batch, index):
        if index == self.config.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        return self._update(state, batch, np.float32(np.nan if index == self.config.nan_at else 1.0))

    def dataset(self):
        return grain.MapDataset.source(Points(20, self.config.model.inputs))

    def preview(self, state, folder: Path, index):
        (folder / "note.txt").write_text(str(index))
        return {"preview/weight": float(state.ema.out.kernel[...][0, 0])}

    def weights(self, state):
        return state.ema


def run(folder, steps, **changes):
    loop_names = {field.name for field in dataclasses.fields(LoopConfig)}
    ours = {name: value for name, value in changes.items() if name not in loop_names}
    loop = {name: value for name, value in changes.items() if name in loop_names}
    settings = {"batch_size": 8, "mesh": MeshConfig(data=2, fsdp=2, tensor=2), "preview_every": 0} | loop
    chex.clear_trace_counter()  # it counts by the name of the function, over all phases of the process
    config = Experiment(LoopConfig(name="line", steps=steps, run_dir=folder, **settings), **ours)
    return train(config.build(), config.loop, config)


def numbers(state):
    plain = lambda leaf: (
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    )
    return [np.asarray(plain(leaf)) for leaf in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Four steps without a break."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, run(folder, 4)


def test_two_steps_and_a_restart_and_two_more_equal_four_bit_for_bit(straight, tmp_path):
    run(tmp_path, 2)
    resumed = run(tmp_path, 4)
    for ours, theirs in zip(numbers(resumed), numbers(straight[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_resumes_on_a_mesh_of_another_shape(straight, tmp_path):
    run(tmp_path, 2)
    resumed = run(tmp_path, 4, mesh=MeshConfig(data=4, fsdp=2, tensor=1))
    kernel = resumed.model.hidden.kernel[...]
    assert kernel.sharding.mesh.shape == {"data": 4, "fsdp": 2, "tensor": 1}
    assert kernel.addressable_shards[0].data.shape == (2, 8)
    for ours, theirs in zip(numbers(resumed), numbers(straight[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
