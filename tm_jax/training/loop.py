"""The one training loop: every phase (VAE, teacher, student) runs through ``train``.

A phase says what a step is; the loop owns the mesh, the order of the data, checkpoints, resuming, logging,
previews and how a run ends.  With several processes every one runs this same loop on its share of the batch;
the first one writes figures, pictures and bars.
"""

import errno
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from tm_jax.config import differences, to_json
from tm_jax.data.loader import loader
from tm_jax.errors import InputError
from tm_jax.media.files import alone
from tm_jax.pretrained.weights import named_leaves, origin, save_sharded
from tm_jax.sharding import batch_sharding, local_rows, make_mesh, shardings_like
from tm_jax.training.checkpoint import Checkpoints, check_same
from tm_jax.training.cluster import SignsOfLife, watched
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.meters import Meters
from tm_jax.training.metrics import RunLog, not_finite
from tm_jax.training.run_files import keep_until
from tm_jax.training.stopping import StopSignal, Vote

DATA = ("windows", "faces", "sounds", "clip", "videos", "prepared")
"""Fields of the phases' configs that say what the data are."""


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

    def work(self, index: int) -> tuple[float, float]:
        """Tokens and model FLOPs of a step; zeros where nobody counts them."""

    def made_of(self) -> dict[str, str]:
        """Digests of the values in files without which a checkpoint cannot go on, by the config's field."""

    def dataset(self) -> grain.MapDataset:
        """The elements (dicts of NumPy arrays), finished but neither shuffled nor batched."""

    def preview(self, state: Any, folder: Path, index: int) -> dict[str, float]:
        """Writes sample pictures and videos into the folder; returns figures to log.

        Every process calls it, and whatever it computes with the state is computed together; the first one
        writes.
        """

    def weights(self, state: Any) -> nnx.Module:
        """The module that is shipped; it has its config as ``.config``."""

    def describe(self) -> dict[str, Any]:
        """What the weights file says of itself beside the module's config."""


def train(phase: Phase, config: LoopConfig, full_config: Any) -> Any:
    """Trains a phase to its last step, or to the time limit; returns the state.

    Args:
      full_config: the whole experiment, saved with every checkpoint.

    Raises:
      InputError: the data, the mesh or the checkpoint do not fit the config, the loss is not finite, another
        process has died, or another run writes the same folder.
      SystemExit: after a signal and the checkpoint that follows: with 0 for SIGTERM, 130 for Ctrl-C.
    """
    check_same(full_config, config.same)
    mesh = _mesh(config)
    stop = StopSignal()
    held = nullcontext() if jax.process_index() else alone(config.folder)
    with held, watched(config.folder / "processes", config.cluster) as life:
        try:
            with jax.set_mesh(mesh), stop.listening():
                return _Run(phase, config, full_config, mesh, stop, life).train()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(
                f"{config.folder} could not be written ({error.strerror}); the last good checkpoint stays: "
                "make room, then start the same command again."
            ) from error


def _mesh(config: LoopConfig) -> jax.sharding.Mesh:
    try:
        mesh = make_mesh(config.mesh)
    except ValueError as error:
        raise InputError(f"{error}: change --loop.mesh.") from error
    try:
        part = config.batch_size // config.accumulate
        batch_sharding(mesh, config.rules).shard_shape((part,))
    except ValueError as error:
        whole = "" if config.accumulate == 1 else f" in {config.accumulate} parts"
        raise InputError(
            f"A batch of {config.batch_size}{whole} does not split over a mesh of {dict(mesh.shape)}: "
            "choose a batch size that the data and fsdp axes divide, or another --loop.mesh."
        ) from error
    return mesh


class _Run:
    """One session of a run, from its start or its newest checkpoint."""

    def __init__(
        self,
        phase: Phase,
        config: LoopConfig,
        full_config: Any,
        mesh: jax.sharding.Mesh,
        stop: StopSignal,
        life: SignsOfLife,
    ):
        self.phase, self.config, self.full_config = phase, config, full_config
        self.stop, self.life, self.vote = stop, life, Vote(mesh)
        self.deadline = time.monotonic() + 60 * config.max_minutes if config.max_minutes else float("inf")
        self.sharding = batch_sharding(mesh, config.rules)
        self.figures: dict[str, float] = {}
        self.best = float("inf")
        self.pending: tuple[int, dict[str, jax.Array], Any] | None = None
        self.notes: list[str] = []
        self.checkpoints = Checkpoints(
            config.folder / "checkpoints",
            keep=config.keep,
            config=full_config,
            same=config.same,
            best=config.best,
            say=self._note,
        )
        try:
            self._begin(mesh)
        except BaseException:
            self.checkpoints.close()
            raise

    def _note(self, line: str) -> None:
        """Something to tell the user, above the bar once there is one."""
        if jax.process_index() == 0:
            print(line, file=sys.stderr, flush=True)

    def _begin(self, mesh: jax.sharding.Mesh) -> None:
        """The state to go on from, the data at their place, and the log."""
        config, phase = self.config, self.phase
        # 1. Shapes and shardings of the state, without computing anything.
        key = jax.random.key(config.seed)
        abstract = jax.eval_shape(phase.init, key)
        shardings = shardings_like(abstract, mesh, config.rules)
        # 2. What a checkpoint says, if there is one, before anything is drawn, encoded or sampled.
        latest = self.checkpoints.latest()
        if latest is not None and not config.resume:
            raise InputError(
                f"{config.folder} already holds a run of {latest} steps: "
                "drop --loop.no-resume to continue it, or give another --loop.name."
            )
        said = self.checkpoints.about()
        self.made_of = phase.made_of()
        if said is not None:
            self._check_made_of(said.get("made_of", {}))
        # 3. The elements of the data, which may be drawn, encoded or sampled now.
        dataset = phase.dataset()
        # 4. The checkpoint's state.
        found = self.checkpoints.restore(abstract, shardings)
        if found is not None:
            self.start, self.state, extra = found
            before = extra["config"]["loop"]
            self.taken = extra.get("elements", self.start * before["batch_size"])
            self.best = extra.get("best", self.best)
            self.meters = Meters(**extra.get("meters", {}))
            self._tell_changes(extra["config"])
        else:
            # Otherwise a new one, made in one jit where it will live; then what no jit can read.
            self.start, self.taken, self.meters = 0, 0, Meters()
            self.state = phase.start(jax.jit(phase.init, out_shardings=shardings)(key))
        self.done = self.start
        # 5. The data from where the last session left them.
        self.data = loader(
            dataset,
            config.batch_size,
            config.seed,
            start=self.taken,
            rows=local_rows(self.sharding, config.batch_size),
            threads=config.threads,
            prefetch=config.prefetch,
            workers=config.workers,
        )
        # 6. What was logged after the checkpoint is logged again.
        if jax.process_index() == 0:
            keep_until(config.folder, self.start)
        self.log = RunLog(
            config.folder, name=config.name, start=self.start, steps=config.steps, every=config.log_every
        )
        if self.start:
            self.log.say(f"{config.name}: resumed after step {self.start}")

    def _check_made_of(self, before: dict[str, str]) -> None:
        """Refuses to go on with what belongs to other values; earlier checkpoints say nothing of them."""
        changed = [name for name, digest in self.made_of.items() if before.get(name, digest) != digest]
        if changed:
            flags = [(f"--{name.replace('_', '-')}", getattr(self.full_config, name)) for name in changed]
            now = [f"without {flag}" if path is None else f"with {flag} {path}" for flag, path in flags]
            raise InputError(
                f"The checkpoint of {self.config.name} was not trained {' and '.join(now)}, whose values are "
                "others: give what the run began with, or another --loop.name."
            )

    def _tell_changes(self, before: dict[str, Any]) -> None:
        """Says what differs from the session before, and what another batch size, order or data mean."""
        config, free = self.config, ("loop.run_dir", "loop.steps", "loop.max_minutes", "loop.name")
        found = [line for line in differences(before, to_json(self.full_config)) if not line.startswith(free)]
        if found:
            self._note(f"{config.name}: resumed with other values (before against now): {'; '.join(found)}")
        size = before["loop"]["batch_size"]
        if size != config.batch_size:
            self._note(
                f"{config.name}: a step is {config.batch_size} clips from here and was {size}: {self.taken} "
                f"clips were seen in {self.start} steps and the next ones follow them; learning rates, "
                "warm-up and decay go on by steps, so they now change by another number of clips."
            )
        if before["loop"]["seed"] != config.seed:
            self._note(
                f"{config.name}: another seed orders the data otherwise from here: of a pass some clips come "
                "again and some not at all; the weights and their noise go on as they were."
            )
        if any(line.split(":")[0].split(".")[0] in DATA for line in found):
            self._note(
                f"{config.name}: the data are others from here, taken from place {self.taken} of their order "
                "on; what was learnt from the ones before stays."
            )

    def train(self) -> Any:
        """Steps to the end, or to a stop; the last one is saved."""
        config = self.config
        trace = _Trace(config.folder / "profile", self.start + 3, config.profile)
        try:
            for index in range(self.start, config.steps):
                since = time.perf_counter()
                local = next(self.data)
                self.meters.waited(time.perf_counter() - since)
                trace.at(index, self._settle)
                self.state, metrics = self.phase.step(self.state, _place(local, self.sharding), index)
                # While the devices run this step, the host reads and logs the one before.
                self._settle()
                self.done = self.life.step = index + 1
                self.taken += config.batch_size
                self.pending = (self.done, metrics, local)
                if config.preview_every and (
                    self.done % config.preview_every == 0 or self.done == config.steps
                ):
                    self._aside(self._preview)
                if self.done % config.checkpoint_every == 0:
                    self._aside(self._save)
                if self.vote(self.stop.requested or time.monotonic() > self.deadline):
                    break
            trace.close(self._settle)
            self._settle()
            self._save()
        finally:
            try:
                self.log.close(self.done, self.meters)
            finally:
                self.checkpoints.close()
        if self.done < config.steps:
            reason = "stopped" if self.stop.requested else f"the {config.max_minutes:g} minutes are over"
            command = shlex.join(["python", *sys.argv])
            self._note(f"{reason} after step {self.done} of {config.steps}; to resume: {command}")
            if self.stop.requested:
                raise SystemExit(self.stop.status)
        return self.state

    def _settle(self) -> None:
        """Reads the metrics of the last dispatched step, which waits for it."""
        if self.pending is None:
            return
        step, on_device, local = self.pending
        self.pending = None
        metrics = {name: float(value) for name, value in jax.device_get(on_device).items()}
        if bad := not_finite(metrics):
            self._fail(step, bad, _keep_batch(self.config.folder, step, local))
        self.meters.step(*self.phase.work(step - 1))
        self.log.step(step, metrics, self.meters)

    def _aside(self, work: Callable[[], None]) -> None:
        """Does what is no part of a step; its time is counted apart."""
        self._settle()
        since = time.perf_counter()
        work()
        self.meters.aside(time.perf_counter() - since)

    def _save(self) -> None:
        config, done = self.config, self.done
        if done == self.checkpoints.latest():
            return
        # A finite loss may hide an update that was not: such a state must not replace a good checkpoint.
        if not _finite(jax.tree.leaves(self.state)):
            self._fail(done, ["the training state"])
        module = self.phase.weights(self.state)
        about = {"step": done, **self.phase.describe()}
        figure = self.figures.get(config.best, float("inf"))
        improved, self.best = figure < self.best, min(self.best, figure)
        extra = {"elements": self.taken, "meters": self.meters.to_json(), "made_of": self.made_of}
        extra["weights"] = {
            "class": type(module).__name__,
            "config": to_json(module.config),
            "meta": origin() | about,
        }
        if config.best and self.best < float("inf"):
            extra["best"] = self.best
        self.log.write()
        self.checkpoints.save(done, self.state, extra, self.figures)
        save_sharded(config.folder / "weights.safetensors", module, module.config, about, step=done)
        if improved:
            about[config.best] = figure
            save_sharded(config.folder / "best.safetensors", module, module.config, about, step=done)
        self.figures = {}

    def _preview(self) -> None:
        folder = self.config.folder / "previews" / f"{self.done:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        self.figures = self.phase.preview(self.state, folder, self.done)
        self.log.scalars(self.done, self.figures)
        self.log.pictures(self.done, folder)

    def _fail(self, step: int, bad: list[str], kept: str = "") -> NoReturn:
        good = self.checkpoints.latest()
        saved = f"the last good checkpoint is step {good}" if good else "nothing was saved before"
        raise InputError(
            f"{', '.join(bad)} is not finite at step {step} of {self.config.name}; {saved}{kept}: "
            "lower the learning rate or set a gradient clip."
        )


class _Trace:
    """A profile of some steps, for TensorBoard or Perfetto."""

    def __init__(self, folder: Path, start: int, steps: int):
        self.folder, self.start, self.stop, self.running = folder, start, start + steps, False

    def at(self, index: int, wait: Callable[[], None]) -> None:
        """Begins or ends the trace before a step; ``wait`` returns when the one before is done."""
        if index == self.start < self.stop:
            wait()
            jax.profiler.start_trace(str(self.folder))
            self.running = True
        elif index == self.stop:
            self.close(wait)

    def close(self, wait: Callable[[], None]) -> None:
        """Ends the trace."""
        if self.running:
            wait()
            jax.profiler.stop_trace()
            self.running = False


@jax.jit
def _finite(leaves: list[jax.Array]) -> jax.Array:
    """Whether all floating-point numbers of the leaves are finite."""
    real = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in real])) if real else jnp.array(True)


def _place(batch: Any, sharding: jax.sharding.NamedSharding) -> Any:
    """The process's share of a batch, a tree of arrays, as global arrays split along their first axis."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def _keep_batch(folder: Path, step: int, local: Any) -> str:
    """Writes this process's share of a batch under dotted names; says where it is."""
    folder = folder / "not_finite"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step}-process-{jax.process_index()}.safetensors"
    names, leaves, _ = named_leaves(local)
    save_file({name: np.ascontiguousarray(leaf) for name, leaf in zip(names, leaves, strict=True)}, path)
    return f"; the batch is kept in {path}"
