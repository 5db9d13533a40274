"""Our own model files: safetensors with dotted parameter paths, whose header holds the config and the origin.

Where a file is read, the folder of a training run may stand as well (`run_checkpoint`).

The header's metadata: ``format`` (tm_jax), ``class`` (the module's name), ``config`` (JSON), ``meta`` (JSON:
commit, command, date and what the caller adds).
"""

import dataclasses
import functools
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tm_jax.config import differences, from_json, to_json
from tm_jax.errors import InputError
from tm_jax.pretrained.files import FLOATS
from tm_jax.pretrained.formats import PICKLES, START, pickle_refused, refuse_foreign
from tm_jax.pretrained.run_checkpoint import RunFile
from tm_jax.pretrained.runs import is_run
from tm_jax.pretrained.sliced import SlicedFile, is_sliced, save_slices

_FORMAT = "tm_jax"


def named_leaves(tree: Any) -> tuple[list[str], list[Any], Any]:
    """Dotted names of a pytree's leaves (``blocks.attention.kernel``), the leaves, and the structure."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
    # A Variable is a node with one child called value: no part of the parameter's name.
    names = [name.removesuffix(".value") for name in names]
    if len(set(names)) != len(names):
        raise ValueError("two leaves of the tree share one dotted name")
    return names, [leaf for _, leaf in paths], treedef


@functools.cache
def _commit() -> str:
    """The repository's commit, asked once: files that this process has written meanwhile don't count."""
    try:
        command, here = ["git", "describe", "--always", "--dirty", "--exclude", "*"], Path(__file__).parent
        return subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def origin() -> dict[str, str]:
    """Where a file comes from: the repository's commit, the command that runs now, and the date (UTC)."""
    return {
        "commit": _commit(),
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _store(name: str, array: np.ndarray, dtype: Literal["f32", "f16"]) -> np.ndarray:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return np.ascontiguousarray(array)
    if dtype == "f16" and array.size and np.abs(array.astype(np.float32)).max() > np.finfo(np.float16).max:
        raise ValueError(f"parameter {name} exceeds the range of float16: save it as f32")
    return np.ascontiguousarray(array.astype(np.float16 if dtype == "f16" else np.float32))


def open_to_others(path: Path) -> None:
    """Give a file the rights of any new one: safetensors writes files that their owner alone may read."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def save_model(
    path: str | os.PathLike,
    model: nnx.Module,
    config: Any,
    meta: dict[str, Any] | None = None,
    dtype: Literal["f32", "f16"] = "f32",
) -> None:
    """Writes a module's parameters and its config; an existing file is replaced in one move.

    For models that a host holds whole; ``save_sharded`` writes those that lie on a mesh.

    Raises:
      ValueError: a parameter does not fit float16.
      InputError: the file cannot be written.
    """
    path = Path(path)
    names, leaves, _ = named_leaves(model)
    arrays = {name: _store(name, np.asarray(leaf), dtype) for name, leaf in zip(names, leaves, strict=True)}
    header = _metadata(model, config, meta or {})
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(arrays, partial, metadata=header)
            open_to_others(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise InputError(f"The weights could not be written to {path}: {error}.") from error


def save_sharded(
    path: str | os.PathLike, model: nnx.Module, config: Any, meta: dict[str, Any], *, step: int
) -> None:
    """``save_model`` in float32 for a module on a mesh, which is never whole on a host (`sliced`).

    All processes must call it; with several of them each writes a file of its own, beside an index.

    Args:
      step: tells these files from those that they replace.

    Raises:
      InputError: a file cannot be written.
    """
    names, leaves, _ = named_leaves(model)
    save_slices(Path(path), names, leaves, _metadata(model, config, meta), step=step)


def _metadata(model: nnx.Module, config: Any, meta: dict[str, Any]) -> dict[str, str]:
    return {
        "format": _FORMAT,
        "class": type(model).__name__,
        "config": json.dumps(to_json(config)),
        "meta": json.dumps({**origin(), **meta}),
    }


@dataclasses.dataclass(frozen=True)
class Header:
    """What a weights file says about itself."""

    model_class: str
    """Name of the module's class."""
    config: dict[str, Any]
    """The model's config as JSON."""
    meta: dict[str, Any]
    """Commit, command, date and whatever was added."""


def _open(path: Path):
    """The opened safetensors file, or one clear sentence."""
    if is_run(path):
        return RunFile(path)
    if is_sliced(path):
        return SlicedFile(path)
    if not path.exists():
        raise InputError(f"There is no weights file {path}: check the path, or train it first.")
    if path.is_dir():
        raise InputError(f"{path} is a directory: give the .safetensors file inside it.")
    if path.stat().st_size == 0:
        raise InputError(f"The weights file {path} is empty: copy or download it again.")
    if not path.is_file():
        raise InputError(f"{path} is no file: give a .safetensors file.")
    try:
        with path.open("rb") as file:
            refuse_foreign(path, file.read(START))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its rights.") from None
    # What torch.save writes runs code when it is loaded, whatever it looks like.
    if path.suffix in PICKLES:
        raise pickle_refused(path)
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a safetensors file, or it is truncated or damaged ({error}): copy it again."
        ) from error


def _header(path: Path, file: Any) -> Header:
    metadata = file.metadata() or {}
    if metadata.get("format") != _FORMAT:
        raise InputError(
            f"{path} is a safetensors file without tm_jax's config in its header: "
            "convert a public checkpoint with tm_jax.pretrained first."
        )
    try:
        header = Header(metadata["class"], json.loads(metadata["config"]), json.loads(metadata["meta"]))
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"The header of {path} is damaged ({error}): copy the file again.") from error
    if not (isinstance(header.config, dict) and isinstance(header.meta, dict)):
        raise InputError(f"The header of {path} is damaged (its config is no object): copy the file again.")
    return header


def is_own(path: str | os.PathLike) -> bool:
    """Whether a path names a run of ours, or our own file: it ends in .safetensors and, if it is there, has
    our header."""
    path = Path(path)
    if is_run(path):
        return True
    if path.suffix != ".safetensors" or path.is_dir():
        return False
    if not path.exists() and not is_sliced(path):
        return True
    with _open(path) as file:
        return (file.metadata() or {}).get("format") == _FORMAT


def read_header(path: str | os.PathLike) -> Header:
    """Class name, config and origin of a weights file; no weights are read."""
    path = Path(path)
    with _open(path) as file:
        return _header(path, file)


def read_config(path: str | os.PathLike, config_class: type) -> Any:
    """The config that a weights file was saved with."""
    return _config(Path(path), read_header(path), config_class)


def _config(path: Path, header: Header, config_class: type) -> Any:
    try:
        return from_json(config_class, header.config)
    except (InputError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"The config in {path} does not make a {config_class.__name__}: {error}") from error


def load_model(
    path: str | os.PathLike,
    model_class: Callable[..., nnx.Module],
    config_class: type,
    expect: Any = None,
) -> nnx.Module:
    """The module in a weights file, in its own precision; its config comes along as the module's ``.config``.

    The module is built without computing initial values, then filled.

    Args:
      expect: a config that the file must have been saved with; None takes the file's own.

    Raises:
      InputError: missing, empty, truncated or foreign file, another class, another config (all fields that
        differ are named), or missing, unknown, wrongly shaped or non-finite parameters (all in one sentence).
    """
    path = Path(path)
    with _open(path) as file:
        header = _header(path, file)
        if header.model_class != model_class.__name__:
            raise InputError(f"{path} holds a {header.model_class}, not a {model_class.__name__}.")
        config = _config(path, header, config_class)
        if expect is not None and (found := differences(config, expect)):
            raise InputError(
                f"{path} was made with another config (file against expected): {'; '.join(found)}."
            )
        abstract = _abstract(path, model_class, config)
        names, leaves, treedef = named_leaves(abstract)
        _compare(path, dict(zip(names, leaves, strict=True)), file)
        try:
            arrays = {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged ({error}): copy it again.") from error
    if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise InputError(f"{path} holds NaN or infinite values in {_few(bad)}: use an earlier checkpoint.")
    filled = [jnp.asarray(arrays[name], leaf.dtype) for name, leaf in zip(names, leaves, strict=True)]
    return jax.tree.unflatten(treedef, filled)


def _abstract(path: Path, model_class: Callable[..., nnx.Module], config: Any) -> nnx.Module:
    """The shapes of the module that a file's config describes."""
    try:
        return jax.eval_shape(lambda: model_class(config, rngs=nnx.Rngs(0)))
    except Exception as error:
        # Whatever a damaged config asks of JAX, and JAX refuses in its own ways.
        reason = str(error).split("\n")[0]
        raise InputError(f"The config in {path} makes no model ({reason}): copy the file again.") from error


def _compare(path: Path, wanted: dict[str, jax.ShapeDtypeStruct], file: Any) -> None:
    """Raise InputError unless the file holds these parameters and no others."""
    stored = {name: file.get_slice(name) for name in file.keys()}
    faults = [f"missing {name}" for name in wanted if name not in stored]
    faults += [f"unknown {name}" for name in stored if name not in wanted]
    for name in wanted.keys() & stored.keys():
        shape, kind = tuple(stored[name].get_shape()), stored[name].get_dtype()
        if shape != tuple(wanted[name].shape):
            faults.append(f"{name} has shape {shape} instead of {tuple(wanted[name].shape)}")
        elif jnp.issubdtype(wanted[name].dtype, jnp.floating) != (kind in FLOATS):
            faults.append(f"{name} is stored as {kind}")
    if faults:
        raise InputError(f"The parameters in {path} do not fit its config: {_few(faults)}.")


def _few(items: list[str]) -> str:
    return "; ".join(items[:12]) + (f" and {len(items) - 12} more" if len(items) > 12 else "")
