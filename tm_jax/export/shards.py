"""Safetensors files written one tensor at a time: what is in memory is one tensor, whatever the model's size.

The header of a safetensors file needs only names, dtypes and shapes, so it is written first and the values
follow, each made when its turn comes.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from tm_jax.pretrained.files import DTYPES

CODES = {np.dtype(kind): code for code, kind in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor to be written."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]
    """Its values in that dtype and shape."""

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def of_array(name: str, array: np.ndarray) -> Tensor:
    """A tensor that is in memory already."""
    return Tensor(name, array.dtype, array.shape, lambda: array)


def write_file(path: Path, tensors: Iterable[Tensor]) -> None:
    """One safetensors file."""
    tensors = list(tensors)
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for tensor in tensors:
        place = [end, end + tensor.nbytes]
        header[tensor.name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": place,
        }
        end = place[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            value = np.ascontiguousarray(tensor.make())
            if value.dtype != tensor.dtype or value.shape != tensor.shape:
                raise ValueError(f"{tensor.name} was announced as {tensor.dtype} {tensor.shape}")
            file.write(value.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def write_shards(folder: Path, stem: str, tensors: Iterable[Tensor], shard_bytes: int) -> list[Path]:
    """Shards of at most ``shard_bytes`` (or one tensor) and their index; one file where that is enough."""
    groups: list[list[Tensor]] = [[]]
    for tensor in tensors:
        full = sum(other.nbytes for other in groups[-1]) + tensor.nbytes > shard_bytes
        if groups[-1] and full:
            groups.append([])
        groups[-1].append(tensor)
    if len(groups) == 1:
        path = folder / f"{stem}.safetensors"
        write_file(path, groups[0])
        return [path]
    paths, weight_map = [], {}
    for number, group in enumerate(groups, 1):
        path = folder / f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors"
        write_file(path, group)
        paths.append(path)
        weight_map |= {tensor.name: path.name for tensor in group}
    total = sum(tensor.nbytes for group in groups for tensor in group)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(
        json.dumps(index, indent=1) + "\n", encoding="utf-8"
    )
    return paths
