"""Checkpoints: the training state, the config and the place in the data, saved together by Orbax.

The state is stored under dotted names (``ema.blocks.attention.kernel``), so a checkpoint knows nothing of our
classes, restores onto any mesh and any number of processes, and a mismatch can be told by name.

A checkpoint is written beside its place and moved there when it is whole.  The sizes of its files are noted
then, and checksums of the small ones, which say where everything lies (large ones would be read twice).  One
whose files have changed since, or cannot be read, is set aside, and the one before takes its place.
"""

import dataclasses
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from tm_jax.config import differences, to_json
from tm_jax.errors import InputError
from tm_jax.pretrained.checkpoint_files import (
    FORMAT,
    TOGETHER_GB,
    Damaged,
    check_format,
    check_whole,
    failures,
    first_process_says,
    forget_sizes,
    named,
    note_sizes,
    reading,
    reason,
)
from tm_jax.pretrained.orbax_quiet import ocp
from tm_jax.pretrained.runs import saved_steps
from tm_jax.pretrained.weights import named_leaves, origin


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


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

        return failures(explain)

    def _note_sizes(self) -> None:
        if jax.process_index() == 0:
            note_sizes(self._folder)

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
        return self._newest(lambda step: (step, *self._read(step, abstract, shardings)))

    def about(self) -> dict[str, Any] | None:
        """The extra of the checkpoint that ``restore`` will read, compared with this run as there."""
        return self._newest(self._check_meta)

    def _newest(self, read: Callable[[int], Any]) -> Any:
        """What is read of the newest checkpoint of which it can be."""
        damaged = 0
        while (step := self.latest()) is not None:
            if jax.process_count() > 1:
                step = int(multihost_utils.broadcast_one_to_all(np.int64(step)))
            try:
                check_whole(self._folder, step)
                return read(step)
            except Damaged as error:
                damaged += 1
                self._set_aside(step, error)
                self._manager.reload()
        if damaged:
            raise InputError(f"No checkpoint in {self._folder} can be read: delete the folder to start anew.")
        return None

    def _set_aside_unlisted(self) -> None:
        """Sets checkpoints aside whose first file is damaged: no manager opens a folder that holds one."""
        while found := first_process_says(_unlisted(self._folder)):
            step, reason = found.split(" ", 1)
            self._set_aside(int(step), Damaged(f"{named(self._folder, int(step))} cannot be read ({reason})"))

    def _set_aside(self, step: int, error: Damaged) -> None:
        """Moves a damaged checkpoint out of the way, and says so."""
        before = [one for one in saved_steps(self._folder) if one < step]
        goes_on = f"going on from step {max(before)}" if before else "there is none before it"
        self._say(f"{error}: it is kept as damaged-{step}, {goes_on}.")
        if jax.process_index() == 0:
            forget_sizes(self._folder, step)
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
        with reading(self._folder, step):
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
            )["state"]
        arrays = [
            jax.random.wrap_key_data(restored[name]) if _is_key(leaf) else restored[name]
            for name, leaf in zip(names, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, arrays), meta

    def _check_meta(self, step: int) -> dict[str, Any]:
        """The extra of a checkpoint of this run; {"config", "step"} are among it."""
        with reading(self._folder, step):
            meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            saved, number = meta["config"], int(meta.get("format", 1))
        check_format(self._folder, step, number)
        if meta.get("kind", self._kind) != self._kind:
            raise InputError(
                f"{named(self._folder, step)} is of another run, a {meta['kind']} and not a {self._kind}: "
                "give another --loop.name or --loop.run-dir."
            )
        found = [
            line
            for line in differences(saved, self._config)
            if any(line.startswith((f"{name}.", f"{name}:")) for name in self._same)
        ]
        if found:
            raise InputError(
                f"{named(self._folder, step)} is of another config (checkpoint against now: "
                f"{'; '.join(found)}): give the run another name or the old values."
            )
        return {"config": saved, **meta.get("extra", {})}

    def _check_shapes(self, step: int, wanted: dict[str, jax.ShapeDtypeStruct]) -> None:
        with reading(self._folder, step):
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
                f"{named(self._folder, step)} is of another training state: {'; '.join(faults[:6])}{more}; "
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
    return reason(error)


def _unlisted(folder: Path) -> str | None:
    """The first checkpoint in a folder that cannot be listed, and why."""
    steps = ocp.path.step.standard_name_format().find_all(folder) if folder.is_dir() else ()
    for found in steps:
        try:
            if found.commit_timestamp.timestamp() <= 0:
                return f"{found.step} it has no time"
        except Exception as error:
            return f"{found.step} {reason(error)}"
    return None


def check_same(config: Any, same: tuple[str, ...]) -> None:
    """Raises ValueError when `same` names a field that the config does not have."""
    fields = {f.name for f in dataclasses.fields(config)}
    if unknown := [name for name in same if name.split(".")[0] not in fields]:
        raise ValueError(f"LoopConfig.same names {unknown}, which are no fields of {type(config).__name__}")
