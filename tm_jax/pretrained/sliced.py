"""Weights that no host holds whole: every process writes the slices that its devices hold, and an index says
where each lies.

    weights.safetensors                        one process: one file, as any other
    weights.safetensors.index.json             several: config, origin, and the slices of every tensor
    weights.step-400.00002-of-00004.safetensors

Nothing is gathered: a slice goes from its device to the file in bands of at most ``PIECE_BYTES``.  Readers
name the first path in both cases.  The index is replaced in one move, after all files are whole.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from tm_jax.errors import InputError
from tm_jax.pretrained.files import Checkpoint, MappedFiles, SlicedTensor, StoredTensor, read_header
from tm_jax.pretrained.placing import PIECE_BYTES, Index, local_indices


@dataclasses.dataclass(frozen=True)
class _Slice:
    """One tensor of a file: a part of a parameter, or all of it."""

    name: str
    index: Index
    array: jax.Array
    """What the device holds of it."""

    @property
    def key(self) -> str:
        """Its name in the file: the parameter's, and where the part begins."""
        return f"{self.name}@{','.join(str(cut.start) for cut in self.index)}"

    def bands(self) -> Iterator[np.ndarray]:
        """Its values in float32, a band at a time."""
        rows = self.array.shape[0] if self.array.ndim else 1
        step = max(1, rows * PIECE_BYTES // max(1, 4 * self.array.size))
        if not self.array.ndim or step >= rows:
            yield np.asarray(self.array).astype(np.float32)
            return
        for start in range(0, rows, step):
            yield np.asarray(self.array[start : start + step]).astype(np.float32)


def index_of(path: Path) -> Path:
    """The index of weights that are named by this path."""
    return path.with_name(f"{path.name}.index.json")


def _whole(shape: tuple[int, ...]) -> Index:
    return tuple(slice(0, size) for size in shape)


def _own_slices(name: str, array: jax.Array) -> Iterator[_Slice]:
    """The parts of a parameter that this process is to write: of equal ones, one process writes the first."""
    if jax.process_count() == 1:
        yield _Slice(name, _whole(array.shape), array)
        return
    first = {shard.device: shard for shard in array.addressable_shards if shard.replica_id == 0}
    for index, devices in local_indices(array.shape, array.sharding):
        for device in devices:
            if device in first:
                yield _Slice(name, index, first[device].data)
                break


def _write_file(path: Path, slices: dict[str, _Slice], metadata: dict[str, str]) -> None:
    """A safetensors file whose values are never in memory together; whole or not at all."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for key, one in slices.items():
        begin, end = end, end + 4 * math.prod(one.array.shape)
        header[key] = {"dtype": "F32", "shape": list(one.array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for one in slices.values():
                _write_bands(file, one)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"The weights could not be written to {path} ({reason}): make room.") from error
    finally:
        partial.unlink(missing_ok=True)


def _write_bands(file: BinaryIO, one: _Slice) -> None:
    for band in one.bands():
        file.write(np.ascontiguousarray(band).data)


def save_slices(
    path: Path, names: list[str], leaves: list[jax.Array], metadata: dict[str, str], *, step: int
) -> None:
    """Writes parameters as float32, every process what it holds; all processes must call it.

    Args:
      metadata: class, config and origin, as in any weights file of ours.
      step: tells these files from those that they replace.

    Raises:
      InputError: a file cannot be written.
    """
    parameters = list(zip(names, leaves, strict=True))
    if others := [name for name, leaf in parameters if not jnp.issubdtype(leaf.dtype, jnp.floating)]:
        raise ValueError(
            f"{', '.join(others)} are no floating-point numbers, which alone are written as float32"
        )
    if jax.process_count() == 1:
        slices = {name: one for name, leaf in parameters for one in _own_slices(name, leaf)}
        _write_file(path, slices, metadata)
        index_of(path).unlink(missing_ok=True)
        _remove_slices(path, but=())
        return
    part, parts = jax.process_index(), jax.process_count()
    files = [f"{path.stem}.step-{step}.{n + 1:05d}-of-{parts:05d}.safetensors" for n in range(parts)]
    mine = [one for name, leaf in parameters for one in _own_slices(name, leaf)]
    _write_file(path.with_name(files[part]), {one.key: one for one in mine}, {"format": "slices of tm_jax"})
    multihost_utils.sync_global_devices(f"slices of {path.name}")
    if part == 0:
        _write_index(path, files, dict(parameters), metadata)
    multihost_utils.sync_global_devices(f"index of {path.name}")


def _write_index(
    path: Path, files: list[str], parameters: dict[str, jax.Array], metadata: dict[str, str]
) -> None:
    weight_map = {key: name for name in files for key in read_header(path.with_name(name))}
    shapes = {name: list(leaf.shape) for name, leaf in parameters.items()}
    content = {"metadata": metadata, "shapes": shapes, "weight_map": weight_map}
    partial = index_of(path).with_suffix(".partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    os.replace(partial, index_of(path))
    # A whole file of an earlier run with one process would be read in its place.
    path.unlink(missing_ok=True)
    _remove_slices(path, but=files)


def _remove_slices(path: Path, *, but: Sequence[str]) -> None:
    """Removes the slices of earlier weights of this name."""
    for old in path.parent.glob(f"{path.stem}.step-*.safetensors"):
        if old.name not in but:
            old.unlink(missing_ok=True)


def is_sliced(path: Path) -> bool:
    """Whether weights of this name lie in slices."""
    return not path.exists() and index_of(path).is_file()


def open_sliced(path: Path) -> tuple[Checkpoint, dict[str, str]]:
    """The parameters of weights in slices, and the metadata; reads headers alone.

    Raises:
      InputError: a file is missing or damaged, or the slices do not make the tensors.
    """
    try:
        content = json.loads(index_of(path).read_text("utf-8"))
        metadata, shapes = dict(content["metadata"]), content["shapes"]
        files = sorted(set(content["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index_of(path)} is damaged ({error}): copy the weights again.") from error
    paths = tuple(path.with_name(Path(name).name) for name in files)
    found: dict[str, list[tuple[Index, StoredTensor]]] = {name: [] for name in shapes}
    for file in paths:
        if not file.is_file():
            raise InputError(f"{path} lies in {len(files)} files and {file.name} is missing: copy it too.")
        for key, tensor in read_header(file).items():
            name, _, starts = key.partition("@")
            corner = [int(start) for start in starts.split(",") if start]
            cuts = zip(corner, tensor.shape, strict=True)
            found[name].append((tuple(slice(start, start + size) for start, size in cuts), tensor))
    tensors = {}
    for name, shape in shapes.items():
        if sum(math.prod(tensor.shape) for _, tensor in found[name]) != math.prod(shape):
            raise InputError(f"{path} holds only parts of {name}: copy all of its {len(files)} files.")
        tensors[name] = SlicedTensor(tuple(shape), tuple(found[name]))
    return Checkpoint(path, paths, tensors, {}), metadata


class OpenedCheckpoint:
    """A checkpoint behind the few methods of an opened safetensors file; ``get_tensor`` is its kind's."""

    def __init__(self, checkpoint: Checkpoint, metadata: Mapping[str, str]):
        self._checkpoint, self._metadata = checkpoint, metadata

    def __enter__(self) -> "OpenedCheckpoint":
        return self

    def __exit__(self, *_: Any) -> None:
        """Nothing stays open."""

    def metadata(self) -> Mapping[str, str]:
        """Class, config and origin."""
        return self._metadata

    def keys(self) -> list[str]:
        """Names of the parameters."""
        return list(self._checkpoint.tensors)

    def get_slice(self, name: str) -> "_Shape":
        """What tells a tensor's shape."""
        return _Shape(self._checkpoint.tensors[name].shape)


class SlicedFile(OpenedCheckpoint):
    """Weights in slices."""

    def __init__(self, path: Path):
        super().__init__(*open_sliced(path))

    def get_tensor(self, name: str) -> np.ndarray:
        """A whole tensor."""
        tensor = self._checkpoint.tensors[name]
        with MappedFiles() as mapped:
            return np.array(mapped.view(tensor)[_whole(tensor.shape)])


@dataclasses.dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]

    def get_shape(self) -> list[int]:
        """The shape."""
        return list(self.shape)

    def get_dtype(self) -> str:
        """Safetensors' code."""
        return "F32"
