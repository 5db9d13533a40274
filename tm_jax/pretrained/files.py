"""Safetensors files as they lie on disk: headers read first, values only by slices of a memory map.

A safetensors file is eight bytes of header length, a JSON header (name → dtype, shape, byte range) and
the raw values.  Reading the header by hand costs a few kilobytes whatever the model's size, and tells
everything that a checkpoint can have wrong: truncation, a pickle under the wrong name, a missing shard.

The mapped pages of a slice count as this process's memory until they are let go, so that every read ends
with ``madvise(DONTNEED)``: the pages stay in the system's cache and leave the process.
"""

import contextlib
import dataclasses
import json
import math
import mmap
import re
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from tm_jax.errors import InputError
from tm_jax.pretrained.formats import PICKLES, START, gguf_refused, pickle_refused, refuse_foreign

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
STEMS = ("diffusion_pytorch_model", "model")
SCALES = (
    *(".scale_weight", ".weight_scale", ".weight_scale_2", ".scale_input", ".input_scale", "scaled_fp8"),
    *(".comfy_quant", ".absmax", ".quant_map", ".qweight", ".qzeros", ".wscales", ".scales"),
)
"""How the names end under which the tools that quantise keep their scales."""


_SHARD = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.safetensors")
_LARGEST_HEADER = 100 * 2**20


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies and how it is stored."""

    file: Path
    """The safetensors file that holds it."""
    dtype: str
    """Safetensors' own code of the storage type, such as BF16."""
    shape: tuple[int, ...]
    """Its shape in the file."""
    start: int
    """First byte of its values, counted from the start of the file."""

    @property
    def nbytes(self) -> int:
        """Bytes that its values take in the file."""
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize

    def divided(self, parts: int) -> tuple["StoredTensor", ...]:
        """The equal parts along its first axis, as tensors of their own; none if it does not divide."""
        if not self.shape or self.shape[0] % parts:
            return ()
        shape, step = (self.shape[0] // parts, *self.shape[1:]), self.nbytes // parts
        return tuple(
            dataclasses.replace(self, shape=shape, start=self.start + part * step) for part in range(parts)
        )


@dataclasses.dataclass(frozen=True)
class SlicedTensor:
    """One tensor whose parts lie in several files, as processes wrote what they held of it (`sliced`)."""

    shape: tuple[int, ...]
    """Its whole shape."""
    slices: tuple[tuple[tuple[slice, ...], StoredTensor], ...]
    """Where each part belongs, and where it lies."""

    @property
    def dtype(self) -> str:
        """Safetensors' code of the storage type."""
        return self.slices[0][1].dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all its parts."""
        return sum(part.nbytes for _, part in self.slices)


@dataclasses.dataclass(frozen=True)
class SavedTensor:
    """One array of a training checkpoint, which Orbax reads (`run_checkpoint`)."""

    shape: tuple[int, ...]
    """Its shape."""
    dtype: str = "F32"
    """Safetensors' code of the storage type."""

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return 4 * math.prod(self.shape)


class _SlicedView:
    """A sliced tensor over the maps of its files, which reads what an index of slices needs."""

    def __init__(self, tensor: SlicedTensor, mapped: "MappedFiles"):
        self._tensor, self._mapped = tensor, mapped

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        cuts = tuple(cut.indices(size)[:2] for cut, size in zip(index, self._tensor.shape, strict=True))
        result = np.empty([stop - start for start, stop in cuts], DTYPES[self._tensor.dtype])
        for place, part in self._tensor.slices:
            common = [
                (max(start, here.start), min(stop, here.stop))
                for (start, stop), here in zip(cuts, place, strict=True)
            ]
            if all(low < high for low, high in common):
                into = tuple(
                    slice(low - cut[0], high - cut[0]) for (low, high), cut in zip(common, cuts, strict=True)
                )
                from_ = tuple(
                    slice(low - here.start, high - here.start)
                    for (low, high), here in zip(common, place, strict=True)
                )
                result[into] = self._mapped.view(part)[from_]
        return result


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The tensors of one model: one file, or the shards that an index names."""

    path: Path
    """The folder or the single file, as messages should name it."""
    files: tuple[Path, ...]
    """The safetensors files, in order."""
    tensors: Mapping[str, StoredTensor | SlicedTensor | SavedTensor]
    """Every tensor of every file by its stored name."""
    config: dict
    """The config.json beside them; empty where there is none."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Stored name → stored shape."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def parameters(self) -> int:
        """Number of stored values."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """Storage type → number of tensors, the most frequent first."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))


class MappedFiles:
    """Memory maps of the files that are being read, opened when first needed."""

    def __init__(self):
        self._maps: dict[Path, mmap.mmap] = {}

    def __enter__(self) -> "MappedFiles":
        return self

    def __exit__(self, *_):
        for mapped in self._maps.values():
            # A view that an exception's traceback still holds keeps its map open until it goes.
            with contextlib.suppress(BufferError):
                mapped.close()
        self._maps.clear()

    def view(self, tensor: StoredTensor | SlicedTensor) -> np.ndarray | _SlicedView:
        """The tensor as a read-only array over the map; nothing is read until it is indexed."""
        if isinstance(tensor, SlicedTensor):
            return _SlicedView(tensor, self)
        if tensor.nbytes == 0:
            return np.zeros(tensor.shape, DTYPES[tensor.dtype])
        if tensor.file not in self._maps:
            with open(tensor.file, "rb") as file:
                self._maps[tensor.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.ndarray(tensor.shape, DTYPES[tensor.dtype], self._maps[tensor.file], tensor.start)

    def release(self, tensor: StoredTensor | SlicedTensor) -> None:
        """Let go of the tensor's pages, which otherwise count as this process's memory."""
        if isinstance(tensor, SlicedTensor):
            for _, part in tensor.slices:
                self.release(part)
            return
        mapped = self._maps.get(tensor.file)
        if mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = tensor.start - tensor.start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, start, tensor.start + tensor.nbytes - start)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, from its header alone.

    Raises InputError for a pickle, a Git LFS pointer or another format, a truncated or a corrupt file.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(START)
            refuse_foreign(path, start)
            length = int.from_bytes(start[:8], "little")
            if len(start) < 8 or length < 2 or length > _LARGEST_HEADER:
                raise InputError(f"{path} does not begin with a safetensors header; download it again")
            if length + 8 > size:
                raise InputError(f"{path} is cut off inside its header ({size} bytes); download it again")
            file.seek(8)
            header = json.loads(file.read(length))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path and its rights") from None
    # A number of thousands of digits is a ValueError, a thousand brackets a RecursionError.
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} has a safetensors header that is not JSON; download it again") from None
    corrupt = InputError(f"{path} has a corrupt safetensors header; download it again")
    if not isinstance(header, dict):
        raise corrupt
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not _is_entry(entry):
            raise corrupt
        if entry["dtype"] not in DTYPES:
            raise InputError(
                f"{path} stores {name} as {entry['dtype']}, which is not read here; "
                "take a version in F32, F16 or BF16"
            )
        first, last = entry["data_offsets"]
        tensor = StoredTensor(path, entry["dtype"], tuple(entry["shape"]), 8 + length + first)
        if last - first != tensor.nbytes:
            raise InputError(
                f"{path} gives {name} {last - first} bytes where its shape needs {tensor.nbytes}; "
                "the header is corrupt, download it again"
            )
        tensors[name] = tensor
    _check_extent(path, tensors, 8 + length, size)
    return tensors


def _is_entry(entry: object) -> bool:
    """Whether a header's entry is of the form that safetensors gives it."""
    count = lambda number: type(number) is int and number >= 0
    return (
        isinstance(entry, dict)
        and entry.keys() >= {"dtype", "shape", "data_offsets"}
        and isinstance(entry["dtype"], str)
        and isinstance(entry["shape"], list)
        and all(map(count, entry["shape"]))
        and isinstance(entry["data_offsets"], list)
        and len(entry["data_offsets"]) == 2
        and all(map(count, entry["data_offsets"]))
    )


def _check_extent(path: Path, tensors: dict[str, StoredTensor], begin: int, size: int) -> None:
    """Raise InputError unless the tensors lie one after another and fill the file from its header on."""
    end = begin
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if tensor.start != end:
            what = "overlaps the values before it" if tensor.start < end else "leaves a hole before it"
            raise InputError(f"{path} has a corrupt safetensors header, {name} {what}; download it again")
        end += tensor.nbytes
    if end > size:
        raise InputError(f"{path} is truncated: {size} bytes of {end} are there; download it again")
    if end < size:
        raise InputError(
            f"{path} has {size - end} bytes more than its header accounts for; download it again"
        )


def read_json(path: Path) -> dict:
    """A JSON object from a file, or an empty one where there is no file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{path} is not readable JSON; download it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a JSON object; download it again")
    return content


def _indexed_files(index: Path) -> tuple[list[Path], dict[str, str]]:
    """The shards that an index file names, and its map from tensor to shard."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index} has no weight_map; download it again")
    if odd := [name for name, file in weight_map.items() if not isinstance(file, str)]:
        raise InputError(f"{index} names no file for {odd[0]}; download it again")
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise InputError(
            f"{index.parent} lacks {len(missing)} of the {len(names)} files that {index.name} names "
            f"({', '.join(missing)}); download them"
        )
    return [index.parent / name for name in names], weight_map


def _without_index(folder: Path, found: list[Path]) -> list[Path]:
    """The files of the one model in a folder that has no index."""
    if len(found) == 1 and not _SHARD.fullmatch(found[0].name):
        return found
    for stem in STEMS:
        if folder / f"{stem}.safetensors" in found:
            return [folder / f"{stem}.safetensors"]
    shards = [_SHARD.fullmatch(path.name) for path in found]
    sets = {(match["stem"], match["parts"]) for match in shards if match}
    if len(sets) == 1 and all(shards):
        ((stem, parts),) = sets
        missing = [
            name
            for part in range(1, int(parts) + 1)
            if not (folder / (name := f"{stem}-{part:05d}-of-{parts}.safetensors")).exists()
        ]
        if missing:
            raise InputError(
                f"{folder} lacks {len(missing)} of its {int(parts)} shards "
                f"({', '.join(missing)}); download them"
            )
        return found
    names = ", ".join(path.name for path in found)
    raise InputError(f"{folder} holds several safetensors files and no index ({names}); name one of them")


def holds_safetensors(folder: Path) -> bool:
    """Whether a folder has safetensors files (or an index of them) directly inside."""
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.safetensors.index.json"))


def open_checkpoint(path: Path) -> Checkpoint:
    """The headers of a single safetensors file, or of a folder with one file or with indexed shards.

    Raises InputError with one sentence for whatever makes it incomplete or unreadable.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give the folder or the safetensors file of a model")
    if path.is_file():
        return Checkpoint(path, (path,), read_header(path), read_json(path.parent / "config.json"))
    if not path.is_dir():
        raise InputError(f"{path} is neither a file nor a folder; give the safetensors file of a model")
    found = sorted(path.glob("*.safetensors"))
    indexes = sorted(path.glob("*.safetensors.index.json"))
    preferred = [path / f"{stem}.safetensors.index.json" for stem in STEMS]
    indexes = [index for index in preferred if index in indexes] or indexes
    weight_map = None
    if indexes:
        files, weight_map = _indexed_files(indexes[0])
    elif found:
        files = _without_index(path, found)
    else:
        raise _nothing_inside(path)
    tensors = {name: tensor for file in files for name, tensor in read_header(file).items()}
    if weight_map is not None and (lost := sorted(set(weight_map) - set(tensors))):
        raise InputError(
            f"{path} has an index with {len(lost)} tensors that no shard holds ({', '.join(lost[:3])}); "
            "index and shards are of different downloads, fetch them again"
        )
    return Checkpoint(path, tuple(files), tensors, read_json(path / "config.json"))


def _nothing_inside(path: Path) -> InputError:
    """Why a folder without safetensors cannot be read."""
    try:
        inside = sorted(path.iterdir())
    except OSError as error:
        return InputError(f"{path} cannot be read ({error.strerror}); check its rights")
    if not inside:
        return InputError(f"{path} is empty; download the model into it")
    if folders := [entry.name for entry in inside if entry.is_dir() and holds_safetensors(entry)]:
        return InputError(
            f"{path} holds no safetensors file itself, but {', '.join(folders)} inside it "
            f"{'does' if len(folders) == 1 else 'do'}; name one of them"
        )
    for suffix in PICKLES:
        if pickles := [entry for entry in inside if entry.suffix == suffix]:
            return pickle_refused(pickles[0])
    if ggufs := [entry for entry in inside if entry.suffix == ".gguf"]:
        return gguf_refused(ggufs[0])
    return InputError(f"{path} holds no safetensors file; give the folder that has the model's weights")


def refuse_scaled(checkpoint: Checkpoint) -> None:
    """Raise InputError where values mean something only together with separate scales."""
    scales = [name for name in checkpoint.tensors if name.endswith(SCALES)]
    if scales:
        raise InputError(
            f"{checkpoint.path} is quantised with separate scales (such as {scales[0]}), "
            "which is not read here; take the BF16 or F16 version"
        )
