"""The programs of a preset as training runs them, and what lies on a device while they run.

Nothing is written anew here: a phase gives its own jitted functions with abstract arguments, and the engine
its own; this file only weighs them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.errors import InputError
from tm_jax.plan.streaming import CHUNK, decode_steps, stream_steps
from tm_jax.sharding import AnyMesh, make_mesh
from tm_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Program:
    """One jitted function and what it is given."""

    function: Any
    arguments: tuple
    """Shapes with shardings, for ``function.lower(*arguments)``."""
    given: float
    """Bytes on a device of all arguments."""
    inputs: float
    """Bytes on a device of the arguments that are not part of the training's state: batches, noise."""
    beside: float
    """Bytes on a device of the state that the program is not given: they lie there all the same."""


def mesh_of(experiment: Any, devices: list[jax.Device]) -> jax.sharding.Mesh:
    """The experiment's mesh over these devices.

    Raises:
      InputError: its sizes do not fill them.
    """
    try:
        return make_mesh(experiment.loop.mesh, devices)
    except ValueError as error:
        raise InputError(f"{error}: change --mesh.") from error


def local_bytes(tree: Any) -> float:
    """Bytes that one device holds of a tree of shapes with shardings."""
    return float(
        sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
            if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        )
    )


def _is_state(node: Any) -> bool:
    return isinstance(node, TrainState | nnx.Module)


def _of_state(arguments: tuple) -> list[Any]:
    return [node for node in jax.tree.leaves(arguments, is_leaf=_is_state) if _is_state(node)]


def _kinds(prefix: str, state: TrainState) -> dict[str, float]:
    return {
        f"{prefix}parameters": local_bytes(state.model),
        f"{prefix}moments": local_bytes(state.opt_state),
        f"{prefix}average": 0.0 if state.ema is None else local_bytes(state.ema),
    }


def resident(steps: dict[str, tuple[Callable, tuple]]) -> dict[str, float]:
    """Bytes on a device of all that a training keeps there from step to step, by kind.

    Args:
      steps: a phase's ``steps(mesh)``.
    """
    found: dict[str, float] = {}
    for name, (_, arguments) in steps.items():
        for node in _of_state(arguments):
            if isinstance(node, TrainState):
                found |= _kinds("critic's " if name == "critic" else "", node)
    if "gap" in steps:
        teacher = _of_state(steps["gap"][1])[0]
        found["teacher"] = local_bytes(teacher)
        # Low-rank changes are of the teacher, or of a transformer of the student's own.
        for frozen in _of_state(steps["warmup"][1])[1:]:
            found["frozen student"] = 0.0 if frozen is teacher else local_bytes(frozen)
    return {kind: size for kind, size in found.items() if size}


def stream_programs(experiment: Any, mesh: AnyMesh) -> tuple[dict[str, Program], dict[str, float]]:
    """A stream's programs by name, and what it keeps on one of the student's devices."""
    steps = stream_steps(experiment, mesh)
    _, (student, _, reference, state, *inputs) = steps[CHUNK]
    kept = {"student": local_bytes(student), "keys and values": local_bytes((reference, state))}
    found = {}
    for name, (function, arguments) in (steps | decode_steps(experiment, mesh)).items():
        given = local_bytes([one for one in arguments if not isinstance(one, RolloutConfig)])
        own = local_bytes(inputs) if name == CHUNK else given
        found[name] = Program(function, arguments, given, own, 0.0)
    return found, kept


def programs(experiment: Any, mesh: AnyMesh) -> tuple[dict[str, Program], dict[str, float]]:
    """A training's programs by name, and what it keeps on a device (`resident`)."""
    steps = dict(experiment.build().steps(mesh))
    kept = resident(steps)
    found = {}
    for name, (function, arguments) in steps.items():
        of_state = sum(local_bytes(node) for node in _of_state(arguments))
        given = local_bytes(arguments)
        # The teacher's pairs are made before there is a student.
        beside = 0.0 if name == "pairs" else sum(kept.values()) - of_state
        found[name] = Program(function, arguments, given, given - of_state, max(0.0, beside))
    return found, kept
