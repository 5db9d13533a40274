"""A public checkpoint straight onto the devices that need it, with no conversion step.

Headers are compared with the model before a value is read, and every fault is told at once.  Then each
device reads the slices of the mapped files that its shard needs, transposed and stacked on the way
(``placing``); host memory stays at the local shards plus a few bands whatever the model's size.

Parameters that no public checkpoint has (the audio module, the mode embedding) are ``new``: they get the
model's own initial values, so that a converted Wan checkpoint is the step-0 teacher.
"""

import contextlib
import fnmatch
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from tm_jax.errors import InputError
from tm_jax.pretrained.files import (
    FLOATS,
    Checkpoint,
    MappedFiles,
    SavedTensor,
    SlicedTensor,
    StoredTensor,
    refuse_scaled,
)
from tm_jax.pretrained.names import NameMap, Transform, paths, with_values
from tm_jax.pretrained.placing import PIECE_BYTES, Index, local_indices, place
from tm_jax.pretrained.run_checkpoint import RunCheckpoint

_NUMBER = re.compile(r"(?<![\w])\d+(?![\w])")


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a dotted name fits one of these patterns, where ``*`` is anything."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


Parts = list[tuple[int | None, str, Transform]]
"""What one array of ours is made of: (layer, their key, transform) of each."""


def plan(
    model: nnx.Module, names: NameMap, stored: Mapping[str, object], new: tuple[str, ...] = ()
) -> tuple[dict[str, Parts], list[str]]:
    """What every array of the model is read from, and the paths that start from our own values.

    A path that fits ``new`` is read all the same where the checkpoint has it.

    Raises:
        KeyError: no rule names a parameter that is not new.
    """
    made, fresh = {}, []
    for path, variable in paths(model).items():
        if matches(path, new):
            if names.to_theirs(path, 0 if names.stacked(path) else None) is None:
                fresh.append(path)
                continue
            parts = list(names.places(path, variable.shape))
            if not any(key in stored for _, key, _ in parts):
                fresh.append(path)
                continue
        made[path] = list(names.places(path, variable.shape))
    return made, fresh


def _ranges(numbers: list[int]) -> str:
    """Sorted numbers as ``0–3, 7``."""
    runs = []
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in run]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}")
    return ", ".join(runs)


def _grouped(faults: list[tuple[str, str]]) -> Iterator[str]:
    """(key, what is wrong) with the keys that differ in their first number alone told together."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for key, fault in faults:
        number = _NUMBER.search(key)
        if number is None:
            groups[key, "", fault] = []
        else:
            groups.setdefault((key[: number.start()], key[number.end() :], fault), []).append(int(number[0]))
    for (before, after, fault), numbers in groups.items():
        numbers = sorted(numbers)
        middle = f"{{{_ranges(numbers)}}}" if len(numbers) > 1 else str(numbers[0]) if numbers else ""
        yield fault.format(key=before + middle + after)


def faults(
    stored: Mapping[str, StoredTensor | SlicedTensor | SavedTensor],
    model: nnx.Module,
    made: Mapping[str, Parts],
    ignored: tuple[str, ...] = (),
) -> list[str]:
    """Every unknown, missing and misshapen key, and every one that holds no numbers fit for a model.

    Keys that differ in the number of their layer alone share one entry.
    """
    variables, wanted = paths(model), {}
    for path, parts in made.items():
        for layer, key, transform in parts:
            shape = variables[path].shape
            wanted[key] = transform.shape_to_theirs(shape if layer is None else shape[1:])
    found = [(key, "missing {key}") for key in wanted if key not in stored]
    found += [(key, "unknown {key}") for key in stored if key not in wanted and not matches(key, ignored)]
    for key in wanted.keys() & stored.keys():
        tensor = stored[key]
        if tensor.shape != wanted[key]:
            found.append((key, f"{{key}} has shape {tensor.shape} where the model has {wanted[key]}"))
        elif tensor.dtype not in FLOATS:
            found.append((key, f"{{key}} is stored as {tensor.dtype}, which is quantised"))
    return list(_grouped(sorted(found)))


def check_fit(
    checkpoint: Checkpoint,
    model: nnx.Module,
    names: NameMap,
    new: tuple[str, ...] = (),
    ignored: tuple[str, ...] = (),
) -> tuple[dict[str, Parts], list[str]]:
    """The plan of a checkpoint that fits the model; reads no values.

    Raises:
        InputError: with every fault in one sentence.
    """
    refuse_scaled(checkpoint)
    made, fresh = plan(model, names, checkpoint.tensors, new)
    found = faults(checkpoint.tensors, model, made, ignored)
    if found:
        raise InputError(
            f"{checkpoint.path} does not fit this model ({len(found)} kinds of fault), "
            f"check that it is complete and of the size that the config says: {'; '.join(found)}"
        )
    return made, fresh


class _Reader:
    """Reads slices of our arrays from the mapped files and counts their bytes."""

    def __init__(self, checkpoint: Checkpoint, mapped: MappedFiles, progress: tqdm):
        self.tensors, self.mapped, self.progress = checkpoint.tensors, mapped, progress

    def read(self, parts: Parts, index: Index) -> np.ndarray:
        """The values of our array at these slices, in float32 whatever they are stored in."""
        if parts[0][0] is None:
            return self._one(parts[0][1], parts[0][2], index)
        layers = parts[index[0]]
        shape = (len(layers), *(cut.stop - cut.start for cut in index[1:]))
        stack = np.empty(shape, np.float32)
        for place_in_stack, (_, key, transform) in zip(stack, layers, strict=True):
            place_in_stack[...] = self._one(key, transform, index[1:])
        return stack

    def _one(self, key: str, transform: Transform, index: Index) -> np.ndarray:
        tensor = self.tensors[key]
        theirs = self.mapped.view(tensor)[transform.slices_to_theirs(index)]
        # A copy always: what the map shows must not outlive the map.
        values = np.array(transform.to_ours(theirs), np.float32, order="C")
        self.progress.update(theirs.size * theirs.dtype.itemsize)
        del theirs
        self.mapped.release(tensor)
        return values


def _sharding_of(shardings, model: nnx.Module) -> dict[str, jax.sharding.Sharding]:
    """Path → sharding, from a tree like the model's; the first local device where there is none."""
    if shardings is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return dict.fromkeys(paths(model), here)
    return {path: jax.tree.leaves(variable)[0] for path, variable in paths(shardings).items()}


def load_pretrained(
    checkpoint: Checkpoint,
    make: Callable[[], nnx.Module],
    names: NameMap,
    shardings=None,
    *,
    new: tuple[str, ...] = (),
    ignored: tuple[str, ...] = (),
    progress: bool = True,
    piece_bytes: int = PIECE_BYTES,
) -> nnx.Module:
    """The model, filled from a public checkpoint or weights of ours, each device holding its shard.

    Args:
        checkpoint: the headers, from ``files.open_checkpoint`` or ``sources.open_own``.
        make: builds the model; run only for shapes and, under jit, for the values of ``new`` parameters.
        names: the name map of the checkpoint's layout.
        shardings: a tree like the model's (``sharding.shardings_like``); None puts all on one device.
        new: patterns of our paths that the checkpoint may lack; they keep ``make``'s own values.
        ignored: patterns of keys of theirs that have no place here.
        progress: draw a bar (bytes, rate, time left); only process 0 draws one.
        piece_bytes: the largest band that the host holds of a shard.

    Raises:
        InputError: everything that does not fit, listed at once, before any value is read.
    """
    abstract = jax.eval_shape(make)
    made, fresh = check_fit(checkpoint, abstract, names, new, ignored)
    variables, sharding_of = paths(abstract), _sharding_of(shardings, abstract)
    values = _fresh(make, fresh, sharding_of)
    if isinstance(checkpoint, RunCheckpoint):
        shaped = lambda path: jax.ShapeDtypeStruct(
            variables[path].shape, variables[path].dtype, sharding=sharding_of[path]
        )
        return with_values(abstract, values | checkpoint.restore({path: shaped(path) for path in made}))
    total = sum(
        sum(checkpoint.tensors[key].nbytes for _, key, _ in parts)
        * sum(
            math.prod(cut.stop - cut.start for cut in part)
            for part, _ in local_indices(variables[path].shape, sharding_of[path])
        )
        // math.prod(variables[path].shape)
        for path, parts in made.items()
    )
    silent = not progress or jax.process_index() > 0
    with (
        contextlib.closing(
            tqdm(total=total, desc=checkpoint.path.name, unit="B", unit_scale=True, disable=silent)
        ) as bar,
        MappedFiles() as mapped,
    ):
        reader = _Reader(checkpoint, mapped, bar)
        for path, parts in made.items():
            variable = variables[path]
            read = functools.partial(reader.read, parts)
            values[path] = place(variable.shape, variable.dtype, sharding_of[path], read, piece_bytes)
    return with_values(abstract, values)


def _fresh(
    make: Callable[[], nnx.Module], fresh: list[str], sharding_of: Mapping[str, jax.sharding.Sharding]
) -> dict[str, jax.Array]:
    """The initial values of these paths alone: under jit, the others are never computed."""
    if not fresh:
        return {}

    def initial():
        everything = paths(make())
        return {path: everything[path][...] for path in fresh}

    return dict(jax.jit(initial, out_shardings={path: sharding_of[path] for path in fresh})())
