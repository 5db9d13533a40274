"""Checkpoints: the training state, the config and the place in the data, saved together by Orbax.

The state is stored under dotted names (``ema.blocks.attention.kernel``), so a checkpoint knows nothing of our
classes, restores onto any mesh, and a mismatch can be told by name.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grain
import grain.checkpoint
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from tm_jax.config import differences, to_json
from tm_jax.errors import InputError
from tm_jax.pretrained.weights import named_leaves, origin


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def saved_steps(folder: Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, which need not exist; nothing is opened."""
    names = [path.name for path in folder.glob("*") if path.is_dir()]
    return sorted(int(name) for name in names if name.isdigit())


class Checkpoints:
    """The checkpoints of one run, written in the background."""

    def __init__(self, folder: Path, *, keep: int, config: Any, same: tuple[str, ...]):
        self._folder = folder.absolute()
        self._config = to_json(config)
        self._same = same
        # Named handlers let a fresh manager read an item's metadata before it restores anything.
        handlers = {
            "state": ocp.StandardCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
            "data": grain.checkpoint.CheckpointHandler(),
        }
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)
        except OSError as error:
            raise InputError(f"Checkpoints cannot be written to {folder}: {error}.") from error

    def latest(self) -> int | None:
        """Steps done in the newest checkpoint, or None when there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, data: grain.DatasetIterator) -> None:
        """Starts saving the state after `step` steps; the state may be donated at once."""
        if step == self.latest():
            return
        names, leaves, _ = named_leaves(state)
        # A buffer that Orbax still reads is not reused by the step that is donated it, so no copy is needed.
        plain = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]
        stored = dict(zip(names, plain, strict=True))
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(stored),
                meta=ocp.args.JsonSave({"config": self._config, "step": step, **origin()}),
                data=grain.checkpoint.CheckpointSave(data),
            ),
        )

    def restore(self, step: int, abstract: Any, shardings: Any, data: grain.DatasetIterator) -> Any:
        """The state of a checkpoint, placed by the shardings; the iterator is moved to its place.

        Args:
          abstract: the state's shapes, from ``jax.eval_shape``.
          shardings: one NamedSharding for each of its leaves.

        Raises:
          InputError: the checkpoint is of another config, lacks a part, or cannot be read.
        """
        self._check_config(step)
        names, leaves, treedef = named_leaves(abstract)
        placed = jax.tree.leaves(shardings)
        wanted = {}
        for name, leaf, sharding in zip(names, leaves, placed, strict=True):
            raw = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
            wanted[name] = jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=sharding)
        self._check_shapes(step, wanted)
        with self._reading(step):
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(wanted),
                    data=grain.checkpoint.CheckpointRestore(data),
                ),
            )
        arrays = [
            jax.random.wrap_key_data(restored["state"][name]) if _is_key(leaf) else restored["state"][name]
            for name, leaf in zip(names, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, arrays)

    def _where(self, step: int) -> str:
        return f"The checkpoint {self._folder.parent.name}/{self._folder.name}/{step}"

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Turns what a damaged checkpoint raises into one sentence."""
        try:
            yield
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).strip().split("\n")[0].split(" [tensorstore_spec")[0]
            raise InputError(
                f"{self._where(step)} cannot be read ({reason[:200] or type(error).__name__}): "
                "delete it to resume from the one before."
            ) from error

    def _check_config(self, step: int) -> None:
        with self._reading(step):
            saved = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        saved = saved["meta"]["config"]
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
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def check_same(config: Any, same: tuple[str, ...]) -> None:
    """Raises ValueError when `same` names a field that the config does not have."""
    fields = {f.name for f in dataclasses.fields(config)}
    if unknown := [name for name in same if name.split(".")[0] not in fields]:
        raise ValueError(f"LoopConfig.same names {unknown}, which are no fields of {type(config).__name__}")
