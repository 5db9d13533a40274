"""Checkpoints: the training state, the config and the place in the data, saved together by Orbax.

The state is stored under dotted names (``ema.blocks.attention.kernel``), so a checkpoint knows nothing of our
classes, restores onto any mesh and any number of processes, and a mismatch can be told by name.

A checkpoint is written beside its place and moved there when it is whole.  The sizes of its files are noted
then, and checksums of the small ones, which say where everything lies (large ones would be read twice).  One
whose files have changed since, or cannot be read, is set aside, and the one before takes its place.
"""

import dataclasses
import json
import logging
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from tm_jax.config import differences, to_json
from tm_jax.errors import InputError
from tm_jax.pretrained.weights import named_leaves, origin

FORMAT = 2
"""Raised when what a checkpoint holds changes its meaning."""
TOGETHER_GB = 1
"""GB of arrays that are read or written at once, beside what the devices hold."""
SMALL = 1 << 20
"""Bytes of a file up to which its content is noted too."""


def _not_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs an error of its threads in hundreds of lines before it raises it, for one sentence here."""
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


logging.getLogger("absl").addFilter(_not_orbax)
_told = sys.unraisablehook


def _not_tensorstore(unraisable: Any) -> None:
    """Once one file of a checkpoint could not be written or read, TensorStore tells of every other one that
    it finds the loop closed to which it would report, and Orbax leaves coroutines that failed as well; what
    is wrong is told here, in one sentence."""
    error = unraisable.exc_value
    closed = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
    code = getattr(unraisable.object, "cr_code", None)
    if not (closed or (code and "orbax" in code.co_filename)):
        _told(unraisable)


sys.unraisablehook = _not_tensorstore


class Damaged(InputError):
    """A checkpoint cannot be read."""


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def saved_steps(folder: Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, which need not exist; nothing is opened."""
    names = [path.name for path in folder.glob("*") if path.is_dir()]
    return sorted(int(name) for name in names if name.isdigit())


@contextmanager
def _failures(explain: Callable[[Exception], InputError]) -> Iterator[None]:
    """Turns what libraries raise into one sentence; a collective that failed for want of a process is not
    ours to explain."""
    try:
        yield
    except Exception as error:
        # A damaged checkpoint ends in whatever its readers stumble over, a plain Exception among it.
        cause: BaseException | None = error
        while cause is not None and jax.process_count() > 1:
            if isinstance(cause, jax.errors.JaxRuntimeError):
                raise cause from None
            cause = cause.__cause__
        raise explain(error) from error


def _reason(error: Exception) -> str:
    """The first line of what a library says, without its own details."""
    text = str(error).strip().split("\n")[0].split(" [tensorstore_spec")[0]
    return text[:200] or type(error).__name__


class Checkpoints:
    """The checkpoints of one run, written in the background."""

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        config: Any,
        same: tuple[str, ...],
        best: str = "",
        say: Callable[[str], None] = print,
    ):
        """Opens the folder, which is made if need be.

        Args:
          keep: newest checkpoints that stay.
          same: fields of the config in which a checkpoint must agree to be resumed.
          best: a figure; the checkpoint where it was smallest stays as well.
          say: told what the user must know.
        """
        self._folder = folder.absolute()
        self._kind, self._config, self._same = type(config).__name__, to_json(config), same
        self._best, self._say = best, say
        at_once = {"save_concurrent_gb": TOGETHER_GB, "restore_concurrent_gb": TOGETHER_GB}
        # Named handlers let a fresh manager read an item's metadata before it restores anything.
        handlers = {"state": ocp.StandardCheckpointHandler(**at_once), "meta": ocp.JsonCheckpointHandler()}
        stays: list[Any] = [checkpoint_managers.LatestN(n=keep)]
        if best:
            smallest = lambda metrics: -metrics[best]
            stays.append(
                checkpoint_managers.BestN(get_metric_fn=smallest, n=1, keep_checkpoints_without_metrics=False)
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(stays),
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
        )
        self._set_aside_unlisted()
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)
        except OSError as error:
            raise InputError(f"Checkpoints cannot be written to {folder}: {error}.") from error

    def latest(self) -> int | None:
        """Steps done in the newest checkpoint, or None when there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, extra: dict[str, Any], figures: dict[str, float]) -> None:
        """Starts saving the state after `step` steps; the state may be donated at once.

        Args:
          extra: plain JSON that ``restore`` gives back.
          figures: by name, among them the one that tells the best.

        Raises:
          InputError: this one, or the one before it in the background, could not be written.
        """
        if step == self.latest():
            return
        names, leaves, _ = named_leaves(state)
        # A buffer that Orbax still reads is not reused by the step that is donated it, so no copy is needed.
        plain = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]
        stored = dict(zip(names, plain, strict=True))
        about = {"format": FORMAT, "kind": self._kind, "config": self._config, "step": step, "extra": extra}
        with self._writing():
            self._manager.wait_until_finished()
            self._note_sizes()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(stored), meta=ocp.args.JsonSave(about | origin())
                ),
                metrics={self._best: figures[self._best]} if self._best in figures else None,
            )

    def _writing(self) -> AbstractContextManager[None]:
        """Turns what a full disk or a lost folder raises into one sentence."""

        def explain(error: Exception) -> InputError:
            good = saved_steps(self._folder)
            stays = f"the last good checkpoint is step {good[-1]}" if good else "there is none before it"
            return InputError(
                f"A checkpoint of {self._folder.parent.name} could not be written ({_plain(error)}); "
                f"{stays}: make room, then start the same command again."
            )

        return _failures(explain)

    def _sizes(self, step: int) -> Path:
        return self._folder / f"sizes-{step}.json"

    def _note_sizes(self) -> None:
        """Notes the sizes of finished checkpoints' files, and forgets those of deleted ones."""
        if jax.process_index():
            return
        steps = saved_steps(self._folder)
        for path in self._folder.glob("sizes-*.json"):
            if int(path.stem.split("-")[1]) not in steps:
                path.unlink(missing_ok=True)
        for step in steps:
            if not self._sizes(step).exists():
                partial = self._sizes(step).with_suffix(".partial")
                partial.write_text(json.dumps(_marks(self._folder / str(step))), encoding="utf-8")
                os.replace(partial, self._sizes(step))

    def _whole(self, step: int) -> str | None:
        """What is missing of a checkpoint; None where nothing is, or where nothing was noted."""
        try:
            noted = dict(json.loads(self._sizes(step).read_text("utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        found = _marks(self._folder / str(step))
        # Earlier programs noted a size alone.
        alone = {name: mark[0] if isinstance(mark, list) else mark for name, mark in found.items()}
        wrong = [name for name, mark in noted.items() if mark not in (found.get(name), alone.get(name))]
        return f"{wrong[0]} is missing or not what was written" if wrong else None

    def restore(self, abstract: Any, shardings: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest state that can be read, placed by the shardings; its step and its extra.

        A damaged checkpoint is set aside with a sentence.  None where there is no checkpoint at all.

        Args:
          abstract: the state's shapes, from ``jax.eval_shape``.
          shardings: one NamedSharding for each of its leaves.

        Raises:
          InputError: the checkpoint is of another run or config, of a newer program, or lacks a part; or
            none can be read.
        """
        damaged = 0
        while (step := self.latest()) is not None:
            if jax.process_count() > 1:
                step = int(multihost_utils.broadcast_one_to_all(np.int64(step)))
            try:
                fault = _first_process_says(self._whole(step))
                if fault:
                    raise Damaged(f"{self._where(step)} is damaged ({fault})")
                return step, *self._read(step, abstract, shardings)
            except Damaged as error:
                damaged += 1
                self._set_aside(step, error)
                self._manager.reload()
        if damaged:
            raise InputError(f"No checkpoint in {self._folder} can be read: delete the folder to start anew.")
        return None

    def _set_aside_unlisted(self) -> None:
        """Sets checkpoints aside whose first file is damaged: no manager opens a folder that holds one."""
        while found := _first_process_says(_unlisted(self._folder)):
            step, reason = found.split(" ", 1)
            self._set_aside(int(step), Damaged(f"{self._where(int(step))} cannot be read ({reason})"))

    def _set_aside(self, step: int, error: Damaged) -> None:
        """Moves a damaged checkpoint out of the way, and says so."""
        before = [one for one in saved_steps(self._folder) if one < step]
        goes_on = f"going on from step {max(before)}" if before else "there is none before it"
        self._say(f"{error}: it is kept as damaged-{step}, {goes_on}.")
        if jax.process_index() == 0:
            self._sizes(step).unlink(missing_ok=True)
            target = self._folder / f"damaged-{step}"
            while target.exists():
                target = target.with_name(f"{target.name}-again")
            os.replace(self._folder / str(step), target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")

    def _read(self, step: int, abstract: Any, shardings: Any) -> tuple[Any, dict[str, Any]]:
        meta = self._check_meta(step)
        names, leaves, treedef = named_leaves(abstract)
        placed = jax.tree.leaves(shardings)
        wanted = {}
        for name, leaf, sharding in zip(names, leaves, placed, strict=True):
            raw = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
            wanted[name] = jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=sharding)
        self._check_shapes(step, wanted)
        with self._reading(step):
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
            )["state"]
        arrays = [
            jax.random.wrap_key_data(restored[name]) if _is_key(leaf) else restored[name]
            for name, leaf in zip(names, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, arrays), meta

    def _where(self, step: int) -> str:
        return f"The checkpoint {self._folder.parent.name}/{self._folder.name}/{step}"

    def _reading(self, step: int) -> AbstractContextManager[None]:
        """Turns what a damaged checkpoint raises into one sentence."""
        return _failures(lambda error: Damaged(f"{self._where(step)} cannot be read ({_reason(error)})"))

    def _check_meta(self, step: int) -> dict[str, Any]:
        """The extra of a checkpoint of this run; {"config", "step"} are among it."""
        with self._reading(step):
            meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            saved, number = meta["config"], int(meta.get("format", 1))
        if number > FORMAT:
            raise InputError(
                f"{self._where(step)} is of format {number} and this program reads up to {FORMAT}: "
                "update the program, or give the run another name."
            )
        if meta.get("kind", self._kind) != self._kind:
            raise InputError(
                f"{self._where(step)} is of another run, a {meta['kind']} and not a {self._kind}: "
                "give another --loop.name or --loop.run-dir."
            )
        found = [
            line
            for line in differences(saved, self._config)
            if any(line.startswith((f"{name}.", f"{name}:")) for name in self._same)
        ]
        if found:
            raise InputError(
                f"{self._where(step)} is of another config (checkpoint against now: {'; '.join(found)}): "
                "give the run another name or the old values."
            )
        return {"config": saved, **meta.get("extra", {})}

    def _check_shapes(self, step: int, wanted: dict[str, jax.ShapeDtypeStruct]) -> None:
        with self._reading(step):
            metadata = self._manager.item_metadata(step)["state"]
            stored = {name: tuple(leaf.shape) for name, leaf in metadata.items()}
        faults = [f"it lacks {name}" for name in wanted if name not in stored]
        faults += [f"{name} is unknown" for name in stored if name not in wanted]
        faults += [
            f"{name} has shape {stored[name]} instead of {leaf.shape}"
            for name, leaf in wanted.items()
            if name in stored and stored[name] != leaf.shape
        ]
        if faults:
            more = f" and {len(faults) - 6} more" if len(faults) > 6 else ""
            raise InputError(
                f"{self._where(step)} is of another training state: {'; '.join(faults[:6])}{more}; "
                "give the run another name or the old config."
            )

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          InputError: the last checkpoint could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()
            self._note_sizes()
            self._manager.close()


def _plain(error: Exception) -> str:
    """Why writing failed: the system's own words where they are found among a library's."""
    text = str(error)
    for words in (
        "No space left on device",
        "Disk quota exceeded",
        "Permission denied",
        "Read-only file system",
    ):
        if words in text:
            return words
    return _reason(error)


def _unlisted(folder: Path) -> str | None:
    """The first checkpoint in a folder that cannot be listed, and why."""
    steps = ocp.path.step.standard_name_format().find_all(folder) if folder.is_dir() else ()
    for found in steps:
        try:
            if found.commit_timestamp.timestamp() <= 0:
                return f"{found.step} it has no time"
        except Exception as error:
            return f"{found.step} {_reason(error)}"
    return None


def _marks(folder: Path) -> dict[str, int | list[int]]:
    """The size of each file, with a checksum where it is small."""
    marks: dict[str, int | list[int]] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            size = path.stat().st_size
            small = size <= SMALL
            marks[str(path.relative_to(folder))] = [size, zlib.crc32(path.read_bytes())] if small else size
    return marks


def _first_process_says(text: str | None) -> str | None:
    """The first process's text on every process."""
    if jax.process_count() == 1:
        return text
    bytes_ = np.frombuffer((text or "").encode()[:256].ljust(256), np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(bytes_)).decode(errors="replace").strip() or None


def check_same(config: Any, same: tuple[str, ...]) -> None:
    """Raises ValueError when `same` names a field that the config does not have."""
    fields = {f.name for f in dataclasses.fields(config)}
    if unknown := [name for name in same if name.split(".")[0] not in fields]:
        raise ValueError(f"LoopConfig.same names {unknown}, which are no fields of {type(config).__name__}")
