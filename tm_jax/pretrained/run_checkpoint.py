"""The checkpoints of our own training runs as a source of weights: what the run would ship, by Orbax.

A run's folder means its newest whole checkpoint.  Of the training state only what is shipped is read, the
averaged parameters; Orbax puts them where they shall lie, in their dtype, and no host holds them whole.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tm_jax.errors import InputError
from tm_jax.pretrained.checkpoint_files import (
    TOGETHER_GB,
    Damaged,
    check_format,
    check_whole,
    named,
    reading,
)
from tm_jax.pretrained.files import Checkpoint, SavedTensor
from tm_jax.pretrained.runs import saved_steps, steps_named
from tm_jax.pretrained.sliced import OpenedCheckpoint

PLACES = ("student.ema.", "ema.")
"""Where a training state holds the parameters that are shipped."""


@dataclasses.dataclass(frozen=True)
class RunCheckpoint(Checkpoint):
    """What a checkpoint of a run would ship; its arrays are read by ``restore``."""

    metadata: Mapping[str, str]
    """Class, config and origin, as in the header of a weights file."""
    place: str
    """What the names of its arrays begin with in the training state."""

    def restore(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """Arrays of these names, in these dtypes and shardings; every process must call it.

        Raises:
            InputError: they cannot be read.
        """
        from tm_jax.pretrained.orbax_quiet import ocp

        state = {self.place + name: leaf for name, leaf in wanted.items()}
        args = ocp.args.PyTreeRestore(
            item=state, restore_args=ocp.checkpoint_utils.construct_restore_args(state), partial_restore=True
        )
        folder, step = self.path.parent, int(self.path.name)
        try:
            with reading(folder, step), _reader() as reader:
                restored = reader.restore(self.path.absolute(), args=ocp.args.Composite(state=args))["state"]
        except Damaged as error:
            raise InputError(f"{error}: name an earlier one, or the run's weights.safetensors.") from error
        return {name: restored[self.place + name] for name in wanted}


def _reader() -> Any:
    """What reads a checkpoint; Orbax comes with the extra that trains, so that nothing else needs it."""
    from tm_jax.pretrained.orbax_quiet import ocp

    state = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=TOGETHER_GB)
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(state=state, meta=ocp.JsonCheckpointHandler()))


def open_run(path: Path) -> RunCheckpoint:
    """What a run would ship, from its newest whole checkpoint or the one that is named; reads no values.

    Raises:
        InputError: none can be read, it is of a newer program, or holds no whole model.
    """
    folder, steps = steps_named(path)
    if not (folder / str(steps[-1])).is_dir():
        there = ", ".join(map(str, saved_steps(folder))) or "none"
        raise InputError(f"There is no checkpoint {path}: of {folder.parent} there are {there}.")
    for step in reversed(steps):
        try:
            check_whole(folder, step)
            return _open(folder, step)
        except Damaged as error:
            earlier = [one for one in steps if one < step]
            if not earlier:
                raise InputError(f"{error}: name another checkpoint, or weights of the run.") from error
            if jax.process_index() == 0:
                print(f"{error}: taking step {earlier[-1]}.", file=sys.stderr, flush=True)
    raise AssertionError("steps_named gives at least one step")


def _open(folder: Path, step: int) -> RunCheckpoint:
    from tm_jax.pretrained.orbax_quiet import ocp

    path = folder / str(step)
    with reading(folder, step), _reader() as reader:
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta = reader.restore(path.absolute(), args=args)["meta"]
        number, config, shipped = int(meta.get("format", 1)), meta["config"], meta["extra"].get("weights")
        arrays = reader.metadata(path.absolute()).item_metadata["state"]
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    check_format(folder, step, number)
    if config.get("lora"):
        raise InputError(
            f"{named(folder, step)} holds low-rank changes alone (--lora {config['lora']}), which are no "
            f"whole model: give {folder.parent / 'weights.safetensors'}, in which they are merged."
        )
    if shipped is None:
        raise InputError(
            f"{named(folder, step)} does not say what its weights are, as those of earlier programs do not: "
            f"give {folder.parent / 'weights.safetensors'}."
        )
    for place in PLACES:
        if found := {n.removeprefix(place): SavedTensor(s) for n, s in shapes.items() if n.startswith(place)}:
            metadata = {
                "format": "tm_jax",
                "class": shipped["class"],
                "config": json.dumps(shipped["config"]),
                "meta": json.dumps(shipped["meta"]),
            }
            return RunCheckpoint(path, (), found, {}, metadata, place)
    raise InputError(f"{named(folder, step)} holds no averaged parameters, which alone are shipped.")


class RunFile(OpenedCheckpoint):
    """A run's checkpoint."""

    _checkpoint: RunCheckpoint

    def __init__(self, path: Path):
        checkpoint = open_run(path)
        super().__init__(checkpoint, checkpoint.metadata)

    @functools.cached_property
    def _arrays(self) -> dict[str, jax.Array]:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        whole = lambda tensor: jax.ShapeDtypeStruct(tensor.shape, np.float32, sharding=here)
        return self._checkpoint.restore({n: whole(tensor) for n, tensor in self._checkpoint.tensors.items()})

    def get_tensor(self, name: str) -> np.ndarray:
        """A whole tensor."""
        return np.asarray(self._arrays[name])
