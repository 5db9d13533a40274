"""A PyTorch pickle's tensors as a safetensors file: the one place where a pickle is opened.

    python -m tm_jax.pretrained convert FILE.ckpt --to FILE.safetensors

``torch.load(weights_only=True)`` makes tensors and plain containers and refuses whatever else a pickle asks
for, so that no code of the file runs.  Nothing in training, streaming or serving calls this: they read
safetensors alone.  Tensors are written one after another from the mapped file, so that the host never holds
more than one of them.
"""

import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tm_jax.errors import InputError
from tm_jax.pretrained.formats import START, is_pickle, refuse_foreign

if TYPE_CHECKING:
    import torch

_MOST_ENTRIES = 50_000
"""A pickle may name one dictionary many times over; no state dict has as many entries."""


def convert(source: Path, target: Path, part: str | None = None) -> str:
    """Write the tensors of a pickle to a new safetensors file; nested names are joined by dots.

    Args:
      part: write only what lies under this name, without it; dots go deeper (``generator_ema``).

    Returns:
      A line that says what was written and what was left out because it is no tensor.

    Raises:
      InputError: no pickle, one that holds more than tensors, a target that exists or cannot be written.
    """
    if target.suffix != ".safetensors":
        raise InputError(f"--to {target} is to be a safetensors file: end its name in .safetensors.")
    if target.exists():
        raise InputError(f"--to {target} exists already: delete it or give another name.")
    tensors: dict[str, torch.Tensor] = {}
    others: list[str] = []
    for name, value in _entries(_choose(_opened(source), part, source), source):
        if not _is_tensor(value):
            others.append(name)
        elif name in tensors:
            raise InputError(f"{source} holds two tensors of the name {name}, so it is not converted.")
        else:
            tensors[name] = _checked(name, value, source)
    if not tensors:
        raise InputError(f"{source} holds no tensors, so there is nothing to convert.")
    nbytes = _write(target, tensors)
    left = f"; left out, being no tensors: {', '.join(others[:5])}" if others else ""
    more = f" and {len(others) - 5} more" if len(others) > 5 else ""
    return f"{target}: {len(tensors):,} tensors, {nbytes / 1e9:.3g} GB{left}{more}"


def _opened(source: Path) -> Any:
    """What a pickle holds: tensors and plain containers."""
    if not source.is_file():
        raise InputError(f"{source} is no file; give the pickle of a model, such as model.pth.")
    try:
        with open(source, "rb") as file:
            start = file.read(START)
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror}); check its rights.") from None
    if not is_pickle(start):
        refuse_foreign(source, start)
        raise InputError(f"{source} is no PyTorch pickle; a safetensors file needs no conversion.")
    try:
        import torch
    except ImportError:
        raise InputError("Converting a pickle needs PyTorch: pip install torch.") from None
    try:
        # Only the newer form, a zip archive, can be mapped; the older is read whole.
        return torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    except pickle.UnpicklingError as error:
        refused = re.search(r"(?:GLOBAL|global:?) `?([\w.]+)", str(error))
        what = f" (it asks for {refused[1]})" if refused else ""
        raise InputError(
            f"{source} holds more than tensors{what} and is refused, since that could run any code; "
            "take a file that holds the state dict alone, or the safetensors version"
        ) from None
    except Exception as error:
        # A damaged archive ends in whatever its reader stumbles over.
        reason = str(error).split("\n")[0][:200] or type(error).__name__
        raise InputError(f"{source} is damaged or cut off ({reason}); download it again.") from None


def _choose(content: Any, part: str | None, source: Path) -> Any:
    """What lies under a dotted name; everything for None."""
    for word in part.split(".") if part else ():
        if not isinstance(content, Mapping) or word not in content:
            inside = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else "no names"
            raise InputError(f"{source} has no {part} (at {word} it has {inside}); give --part one of these.")
        content = content[word]
    return content


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _entries(content: Any, source: Path) -> Iterator[tuple[str, Any]]:
    """Every leaf of nested dictionaries with its dotted name.

    Raises:
      InputError: they hold one another, or are more than any model has.
    """
    waiting, count = [("", content, ())], 0
    while waiting:
        name, value, above = waiting.pop()
        count += 1
        if id(value) in above or count > _MOST_ENTRIES:
            raise InputError(f"{source} holds dictionaries that never end, so it is refused.")
        if isinstance(value, Mapping):
            inside = [
                (f"{name}.{key}" if name else str(key), v, (*above, id(value))) for key, v in value.items()
            ]
            waiting += reversed(inside)
        else:
            yield name, value


def _checked(name: str, tensor: "torch.Tensor", source: Path) -> "torch.Tensor":
    """The tensor, if safetensors can hold it as it is."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in _codes():
        raise InputError(
            f"{source} holds {name} as {tensor.dtype} ({tensor.layout}), which is not converted; "
            "take a version in F32, F16 or BF16"
        )
    # A view may repeat a few stored numbers without end.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise InputError(f"{source} holds {name} with more numbers than are stored, so it is refused.")
    return tensor.detach()


def _codes() -> dict["torch.dtype", str]:
    """PyTorch's types and what safetensors calls them."""
    import torch

    return {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.float8_e4m3fn: "F8_E4M3",
        torch.float8_e5m2: "F8_E5M2",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }


def _write(target: Path, tensors: Mapping[str, "torch.Tensor"]) -> int:
    """Write a safetensors file beside its name and move it there; returns the bytes of its values.

    The safetensors package would first copy all tensors into memory.
    """
    # PyTorch's libraries ask for this entry.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    codes, end = _codes(), 0
    for name, tensor in tensors.items():
        first, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": codes[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [first, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                for tensor in tensors.values():
                    _write_values(file, tensor)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{target} could not be written ({error.strerror or error}).") from None
    return end


def _write_values(file: BinaryIO, tensor: "torch.Tensor") -> None:
    import torch

    if tensor.numel():
        file.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
