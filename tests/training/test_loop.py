"""The loop on a phase that fits a line: resuming, other meshes, interruption, a loss that is not finite."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from tm_jax.errors import InputError
from tm_jax.media.files import alone
from tm_jax.pretrained.weights import load_model, read_header
from tm_jax.sharding import MeshConfig
from tm_jax.training.loop import train
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig, make_optimizer
from tm_jax.training.state import TrainState
from tm_jax.training.stopping import StopSignal


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
    teacher: str = "a"
    values: str = ""
    signal: int = signal.SIGINT

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

    def start(self, state):
        return state

    def _pure_update(self, state, batch, scale):
        noise = 0.01 * jax.random.normal(state.draw(), batch["x"].shape)

        def loss(model):
            return jnp.mean((model(batch["x"] + noise) - batch["y"]) ** 2)

        value, gradients = jax.value_and_grad(loss)(state.model)
        return state.apply(gradients, self.tx, decay=0.99), {"loss": value * scale}

    def step(self, state, batch, index):
        if index == self.config.interrupt_at:
            signal.raise_signal(self.config.signal)
        return self._update(state, batch, np.float32(np.nan if index == self.config.nan_at else 1.0))

    def work(self, index):
        return 8.0, 1e6

    def dataset(self):
        return grain.MapDataset.source(Points(20, self.config.model.inputs))

    def preview(self, state, folder: Path, index):
        (folder / "note.txt").write_text(str(index))
        return {"preview/weight": float(state.ema.out.kernel[...][0, 0])}

    def weights(self, state):
        return state.ema

    def made_of(self):
        return {"teacher": self.config.values} if self.config.values else {}

    def describe(self):
        return {"of": "a test"}


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


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The folder of a run that ended after two steps."""
    folder = tmp_path_factory.mktemp("half")
    run(folder, 2)
    return folder


def test_two_steps_and_a_restart_and_two_more_equal_four_bit_for_bit(straight, half, tmp_path):
    resumed = run(shutil.copytree(half, tmp_path / "run"), 4)
    for ours, theirs in zip(numbers(resumed), numbers(straight[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_resumes_on_a_mesh_of_another_shape(straight, half, tmp_path):
    resumed = run(shutil.copytree(half, tmp_path / "run"), 4, mesh=MeshConfig(data=4, fsdp=2, tensor=1))
    kernel = resumed.model.hidden.kernel[...]
    assert kernel.sharding.mesh.shape == {"data": 4, "fsdp": 2, "context": 1, "tensor": 1}
    assert kernel.addressable_shards[0].data.shape == (2, 8)
    for ours, theirs in zip(numbers(resumed), numbers(straight[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_what_belongs_to_other_values_is_refused_before_the_data_are_made(half, tmp_path, monkeypatch):
    folder = shutil.copytree(half, tmp_path / "run")
    run(folder, 3, values="1")  # a checkpoint of earlier days says nothing of them
    made = []
    dataset = Fit.dataset
    monkeypatch.setattr(Fit, "dataset", lambda self: made.append(1) or dataset(self))
    with pytest.raises(InputError, match=r"line was not trained with --teacher b, whose values are others"):
        run(folder, 4, values="2", teacher="b")
    assert not made
    assert int(run(folder, 4, values="1", teacher="c").step) == 4 and made


def test_the_loop_leaves_weights_with_their_origin_and_a_log(straight):
    folder, state = straight
    model = load_model(folder / "weights.safetensors", Line, LineConfig)
    np.testing.assert_array_equal(model.out.kernel[...], state.ema.out.kernel[...])
    header = read_header(folder / "weights.safetensors")
    assert header.meta["step"] == 4 and {"commit", "command", "date"} <= set(header.meta)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4 and np.isfinite(lines[-1]["loss"])


def test_parameters_and_moments_lie_where_their_names_say(straight):
    state = straight[1]
    for module in (state.model, state.ema, state.opt_state[1][0].mu):
        kernel = module.hidden.kernel[...]
        assert kernel.addressable_shards[0].data.shape == (2, 4) and kernel.shape == (4, 8)
    assert state.step.sharding.is_fully_replicated


def test_ctrl_c_finishes_the_step_saves_and_exits_with_130(tmp_path, capfd):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        run(tmp_path, 10, interrupt_at=1)
    assert end.value.code == 130
    assert (tmp_path / "checkpoints" / "2").is_dir() and not (tmp_path / "checkpoints" / "10").exists()
    assert "stopped after step 2 of 10; to resume: python " in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_saves_and_exits_with_0(tmp_path):
    with pytest.raises(SystemExit) as end:
        run(tmp_path, 10, interrupt_at=1, signal=int(signal.SIGTERM))
    assert end.value.code == 0 and (tmp_path / "checkpoints" / "2").is_dir()


def test_a_second_ctrl_c_is_the_system_s_own():
    stop = StopSignal()
    with stop.listening():
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_loss_that_is_not_finite_names_the_step_and_the_last_good_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"loss is not finite at step 4 of line; .* checkpoint is step 2"):
        run(tmp_path, 10, nan_at=3, checkpoint_every=2)
    kept = load_file(tmp_path / "not_finite" / "step-4-process-0.safetensors")
    assert kept["x"].shape == (8, 4) and kept["y"].shape == (8,)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == ["2"]


def test_a_broken_state_never_becomes_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match="training state is not finite at step 1 of line; nothing was saved"):
        run(tmp_path, 1, optim=OptimConfig(lr=float("inf")))
    assert not (tmp_path / "weights.safetensors").exists()


def test_the_time_limit_stops_with_a_checkpoint_and_previews_are_logged(tmp_path, capfd):
    run(tmp_path, 5, max_minutes=1e-6, preview_every=1)
    assert (tmp_path / "checkpoints" / "1").is_dir()
    assert "minutes are over after step 1 of 5; to resume" in capfd.readouterr().err
    assert (tmp_path / "previews" / "0000001" / "note.txt").read_text() == "1"
    assert "preview/weight" in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": LineConfig(width=16)}, "model.width: 8 against 16"),
        ({"resume": False}, "already holds a run of 4 steps"),
        ({"batch_size": 24}, "20 elements, fewer than one batch of 24"),
        ({"batch_size": 6}, "A batch of 6 does not split over a mesh"),
        ({"mesh": MeshConfig(data=3)}, "does not fill 8 devices"),
        ({"optim": OptimConfig(name="muon")}, "another training state: it lacks opt_state"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(straight, changes, message):
    with pytest.raises(InputError, match=message) as error:
        run(straight[0], 8, **changes)
    assert "\n" not in str(error.value)


def test_another_batch_size_goes_on_where_the_data_were_and_is_told(half, tmp_path, capfd):
    run(shutil.copytree(half, tmp_path / "run"), 3, batch_size=4, mesh=MeshConfig(data=4, fsdp=1, tensor=2))
    told = capfd.readouterr().err
    assert "a step is 4 clips from here and was 8: 16 clips were seen in 2 steps" in told
    assert "loop.batch_size: 8 against 4" in told


def test_a_restart_logs_no_step_twice(half, tmp_path):
    folder = shutil.copytree(half, tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 9.0}\n{"step": 4, "lo')
    run(folder, 4, log_every=1)
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()] == [2, 3, 4]


def test_a_profile_of_some_steps_is_written(tmp_path):
    run(tmp_path, 5, profile=1)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_same_must_name_fields_of_the_config(tmp_path):
    with pytest.raises(ValueError, match="no fields of Experiment"):
        run(tmp_path, 1, same=("student",))


def test_a_run_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        run(tmp_path / "file" / "run", 1)


def test_a_folder_is_written_by_one_run_alone(half, tmp_path):
    folder = shutil.copytree(half, tmp_path / "run")
    with alone(folder), pytest.raises(InputError, match=r"is being written by another run: wait for its end"):
        run(folder, 3)
    run(folder, 3)


def test_another_seed_is_told_with_what_it_means(half, tmp_path, capfd):
    run(shutil.copytree(half, tmp_path / "run"), 3, seed=5)
    told = capfd.readouterr().err
    assert "loop.seed: 0 against 5" in told and "another seed orders the data otherwise" in told
