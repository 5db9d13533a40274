"""The one training loop: every phase (VAE, teacher, student) runs through ``train``.

A phase says what a step is; the loop owns the mesh, the order of the data, checkpoints, resuming, logging,
previews and how a run ends.
"""

import dataclasses
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from tm_jax.data.loader import loader
from tm_jax.errors import InputError
from tm_jax.pretrained.weights import save_model
from tm_jax.sharding import MeshConfig, ShardingRules, batch_sharding, make_mesh, shardings_like
from tm_jax.training.checkpoint import Checkpoints, check_same
from tm_jax.training.metrics import RunLog, not_finite


@runtime_checkable
class Phase(Protocol):
    """One kind of training, built from a frozen config."""

    def init(self, key: jax.Array) -> Any:
        """The state before the first step; the loop traces it inside one jit and places its outputs."""

    def start(self, state: Any) -> Any:
        """A new run's state, given what ``init`` made: values read from files or fitted to data go in here.

        It is called once, outside of any trace, and never when a checkpoint is resumed.
        """

    def step(self, state: Any, batch: dict[str, jax.Array], index: int) -> tuple[Any, dict[str, jax.Array]]:
        """One step: dispatches jitted functions that are donated the state.

        `index` counts from 0. The metrics are scalars on the device; "loss" is shown in the progress bar.
        """

    def dataset(self) -> grain.MapDataset:
        """The elements (dicts of NumPy arrays), finished but neither shuffled nor batched."""

    def preview(self, state: Any, folder: Path, index: int) -> dict[str, float]:
        """Writes sample pictures and videos into the folder; returns figures to log."""

    def weights(self, state: Any) -> nnx.Module:
        """The module that is shipped; it has its config as ``.config``."""

    def describe(self) -> dict[str, Any]:
        """What the weights file says of itself beside the module's config."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Length, data order, saving and logging of a run."""

    name: str
    """Name of the run; it is written to <runs>/<name>."""
    steps: int = 1000
    """Steps in all."""
    batch_size: int = 8
    """Clips in a batch, over all devices."""
    accumulate: int = 1
    """Parts of a batch whose gradients are summed before an update: the memory of one part, the same step."""
    seed: int = 0
    """Seed of the initial weights and of the data's order."""
    run_dir: Path | None = None
    """Folder of the run; runs/<name> when not given."""
    max_minutes: float = 0.0
    """Stop with a checkpoint after this time (0: no limit); the same command resumes."""
    resume: bool = True
    """Continue from the newest checkpoint of the run; with --loop.no-resume a run must be new."""
    same: tuple[str, ...] = ("model",)
    """Fields of the whole config in which a checkpoint must agree to be resumed."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints that are kept."""
    preview_every: int = 500
    """Steps between sample videos (0: none)."""
    log_every: int = 10
    """Steps whose mean makes one point of the log."""
    threads: int = 2
    """Threads that read data ahead."""
    workers: int = 0
    """Processes that read data ahead instead of threads (0: none)."""
    prefetch: int = 4
    """Batches read ahead."""
    mesh: MeshConfig = MeshConfig()
    """Devices by use."""
    rules: ShardingRules = ShardingRules()
    """Logical axes by mesh axis."""

    def __post_init__(self):
        if (
            min(
                self.steps, self.batch_size, self.accumulate, self.checkpoint_every, self.keep, self.log_every
            )
            < 1
        ):
            raise ValueError(
                "steps, batch_size, accumulate, checkpoint_every, keep and log_every must be at least 1"
            )

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return Path(self.run_dir) if self.run_dir else Path("runs") / self.name


class _Stop:
    """Notes Ctrl-C and SIGTERM: the first asks the loop to finish, the second ends the process at once."""

    _signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.requested = False

    def __call__(self, number, frame):
        self.requested = True
        for one in self._signals:
            signal.signal(one, signal.SIG_DFL)
        print("\nfinishing this step, then saving; once more exits at once", file=sys.stderr, flush=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        before = [signal.signal(number, self) for number in self._signals]
        try:
            yield
        finally:
            for number, handler in zip(self._signals, before, strict=True):
                signal.signal(number, handler)


def train(phase: Phase, config: LoopConfig, full_config: Any) -> Any:
    """Trains a phase to its last step, or to the time limit; returns the state.

    Args:
      full_config: the whole experiment, saved with every checkpoint.

    Raises:
      InputError: the data, the mesh or the checkpoint do not fit the config, or the loss is not finite.
      SystemExit: with 130, after Ctrl-C or SIGTERM and the checkpoint that follows.
    """
    deadline = time.monotonic() + 60 * config.max_minutes if config.max_minutes else float("inf")
    check_same(full_config, config.same)
    mesh = _mesh(config)
    stop = _Stop()
    with jax.set_mesh(mesh), stop.listening():
        checkpoints = Checkpoints(
            config.folder / "checkpoints", keep=config.keep, config=full_config, same=config.same
        )
        try:
            return _run(phase, config, mesh, checkpoints, stop, deadline)
        finally:
            checkpoints.close()


def _mesh(config: LoopConfig) -> jax.sharding.Mesh:
    try:
        mesh = make_mesh(config.mesh)
    except ValueError as error:
        raise InputError(f"{error}: change --loop.mesh.") from error
    try:
        batch_sharding(mesh, config.rules).shard_shape((config.batch_size,))
    except ValueError as error:
        raise InputError(
            f"A batch of {config.batch_size} does not split over a mesh of {dict(mesh.shape)}: "
            "choose a batch size that the data and fsdp axes divide, or another --loop.mesh."
        ) from error
    return mesh


def _begin(phase: Phase, config: LoopConfig, mesh: jax.sharding.Mesh, checkpoints: Checkpoints):
    """The state to go on from, the data iterator at its place, and the number of steps done."""
    # 1. Shapes and shardings of the state, without computing anything.
    key = jax.random.key(config.seed)
    abstract = jax.eval_shape(phase.init, key)
    shardings = shardings_like(abstract, mesh, config.rules)
    # 2. The data from its beginning.
    data = loader(
        phase.dataset(),
        config.batch_size,
        config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.threads,
        prefetch=config.prefetch,
        workers=config.workers,
    )
    # 3. A checkpoint, if there is one: its config is compared, then the state and the data's place are read.
    start = checkpoints.latest()
    if start is not None and not config.resume:
        raise InputError(
            f"{config.folder} already holds a run of {start} steps: "
            "drop --loop.no-resume to continue it, or give another --loop.name."
        )
    if start is not None:
        return checkpoints.restore(start, abstract, shardings, data), data, start
    # 4. Otherwise a new state, made in one jit where it will live; then what no jit can read.
    return phase.start(jax.jit(phase.init, out_shardings=shardings)(key)), data, 0


def _run(
    phase: Phase,
    config: LoopConfig,
    mesh: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    stop: _Stop,
    deadline: float,
) -> Any:
    state, data, start = _begin(phase, config, mesh, checkpoints)
    log = RunLog(config.folder, name=config.name, start=start, steps=config.steps, every=config.log_every)
    if start:
        log.say(f"{config.name}: resumed after step {start}")
    sharding = batch_sharding(mesh, config.rules)
    pending: tuple[int, dict[str, jax.Array]] | None = None
    done = start

    def settle() -> None:
        """Reads the metrics of the last dispatched step, which waits for it."""
        nonlocal pending
        if pending is not None:
            step, on_device = pending
            pending = None
            metrics = {name: float(value) for name, value in jax.device_get(on_device).items()}
            if bad := not_finite(metrics):
                _fail(config, step, bad, checkpoints.latest())
            log.step(step, metrics)

    def save() -> None:
        if done == checkpoints.latest():
            return
        settle()
        # A finite loss may hide an update that was not: such a state must not replace a good checkpoint.
        if not _finite(jax.tree.leaves(state)):
            _fail(config, done, ["the training state"], checkpoints.latest())
        checkpoints.save(done, state, data)
        module = phase.weights(state)
        save_model(
            config.folder / "weights.safetensors", module, module.config, {"step": done, **phase.describe()}
        )

    try:
        for index in range(start, config.steps):
            batch = _place(next(data), sharding)
            state, metrics = phase.step(state, batch, index)
            # While the device runs this step, the host reads and logs the one before.
            settle()
            done = index + 1
            pending = (done, metrics)
            if config.preview_every and (done % config.preview_every == 0 or done == config.steps):
                settle()
                _preview(phase, state, config, log, done)
            if done % config.checkpoint_every == 0:
                save()
            if _agreed(stop.requested or time.monotonic() > deadline, done, config):
                break
        settle()
        save()
    finally:
        log.close(done)
    if done < config.steps:
        checkpoints.close()
        reason = "stopped" if stop.requested else f"the {config.max_minutes:g} minutes are over"
        command = shlex.join(["python", *sys.argv])
        print(f"{reason} after step {done} of {config.steps}; to resume: {command}", file=sys.stderr)
        if stop.requested:
            raise SystemExit(130)
    return state


@jax.jit
def _finite(leaves: list[jax.Array]) -> jax.Array:
    """Whether all floating-point numbers of the leaves are finite."""
    real = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in real])) if real else jnp.array(True)


def _agreed(wish: bool, done: int, config: LoopConfig) -> bool:
    """Whether to stop now: all processes must stop after the same step, so several ask each other."""
    if jax.process_count() == 1:
        return wish
    if done % config.log_every:
        return False
    return bool(multihost_utils.process_allgather(np.array(wish)).any())


def _place(batch: Any, sharding: jax.sharding.NamedSharding) -> Any:
    """The process's share of a batch, a tree of arrays, as global arrays split along their first axis."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def _preview(phase: Phase, state: Any, config: LoopConfig, log: RunLog, done: int) -> None:
    folder = config.folder / "previews" / f"{done:07d}"
    folder.mkdir(parents=True, exist_ok=True)
    log.scalars(done, phase.preview(state, folder, done))
    log.pictures(done, folder)


def _fail(config: LoopConfig, step: int, bad: list[str], good: int | None) -> NoReturn:
    saved = f"the last good checkpoint is step {good}" if good else "nothing was saved before"
    raise InputError(
        f"{', '.join(bad)} is not finite at step {step} of {config.name}; {saved}: "
        "lower the learning rate or set a gradient clip."
    )
