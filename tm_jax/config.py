"""Configs: a preset plus overrides from the command line, and their JSON form.

A preset is a frozen dataclass in ``configs/<name>.py`` called PRESET; every field of every component can be
overridden by its dotted name: ``python train.py tiny_vae --optim.lr 3e-4``.
"""

import dataclasses
import difflib
import importlib
import pkgutil
import shutil
import sys
import textwrap
import types
import typing
from pathlib import Path
from typing import Any, Protocol

from tm_jax.errors import InputError
from tm_jax.flags import fitted, parse


@typing.runtime_checkable
class Experiment(Protocol):
    """What a preset must offer: the loop's own config, and the phase that it trains."""

    loop: Any

    def build(self) -> Any:
        """The phase (see ``tm_jax.training.loop.Phase``)."""


@typing.runtime_checkable
class Chain(Protocol):
    """A preset of several trainings and what is made of them."""

    def run(self) -> None:
        """Everything that is not done yet."""


Preset = Experiment | Chain


def presets(package: types.ModuleType) -> dict[str, str]:
    """Names of the presets in a package, with the first line of their docstrings."""
    folder = Path(next(iter(package.__path__)))
    names = sorted(info.name for info in pkgutil.iter_modules([str(folder)]) if info.name[0] != "_")
    return {name: _headline(folder / f"{name}.py") for name in names}


def _headline(path: Path) -> str:
    """First line of a module's docstring, read without importing the module."""
    import ast

    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) if path.is_file() else None
    return docstring.splitlines()[0] if docstring else ""


def load(package: types.ModuleType, argv: list[str] | None = None, prog: str = "train.py") -> Preset:
    """What a command line asks for: a preset's name first, then overrides.

    ``--help`` lists the presets, ``NAME --help`` a preset's fields; both exit with 0.

    Raises:
      InputError: no preset of that name, a mistyped flag, or a value that the config itself rejects.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage(package, prog))
        raise SystemExit(0 if argv else 2)
    name, overrides = argv[0], argv[1:]
    preset, about = _preset(package, name)
    return parse(type(preset), default=preset, args=overrides, prog=f"{prog} {name}", description=about)


def _preset(package: types.ModuleType, name: str) -> tuple[Preset, str]:
    known = presets(package)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"There is no preset called {name!r}: {hint}The presets are {', '.join(known)}.")
    module = importlib.import_module(f"{package.__name__}.{name}")
    return module.PRESET, module.__doc__ or ""


def _usage(package: types.ModuleType, prog: str) -> str:
    known = presets(package)
    columns = shutil.get_terminal_size().columns
    width = max((len(name) for name in known), default=0) + 4
    beside = columns >= width + 40
    lines = [f"usage: python {prog} PRESET [--field value ...]", "", "presets:"]
    for name, about in known.items():
        first, rest = (f"  {name}".ljust(width), " " * width) if beside else (" " * 6, " " * 6)
        lines += [] if beside else [f"  {name}"]
        lines += textwrap.wrap(about, columns, initial_indent=first, subsequent_indent=rest)
    return fitted("\n".join([*lines, "", f"python {prog} PRESET --help lists every field of a preset."]))


def to_json(config: Any) -> Any:
    """A config as plain JSON values: nested dataclasses become dicts, tuples lists."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (tuple, list)):
        return [to_json(item) for item in config]
    if isinstance(config, dict):
        return {str(key): to_json(value) for key, value in config.items()}
    if isinstance(config, Path):
        return str(config)
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    raise TypeError(f"a config cannot hold a {type(config).__name__}")


def from_json(kind: Any, data: Any) -> Any:
    """The inverse of ``to_json`` for a dataclass or any field type of one; lists become tuples again.

    Fields that the data lack keep their defaults.  A dataclass whose fields were once written otherwise says
    by ``renewed(fields)`` how they are written now.

    Raises:
      InputError: the data name a field that the dataclass does not have.
    """
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        data = kind.renewed(data) if hasattr(kind, "renewed") else data
        unknown = sorted(set(data) - {f.name for f in dataclasses.fields(kind)})
        if unknown:
            raise InputError(
                f"{kind.__name__} has no field {', '.join(unknown)}: "
                "the file comes from another version of this program."
            )
        return kind(**{name: from_json(hints[name], value) for name, value in data.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return from_json(arguments[0], data)
    if origin in (typing.Union, types.UnionType):
        return from_json(_member(arguments, data), data)
    if isinstance(data, list):
        if not arguments:
            return tuple(data)
        kinds = arguments[:1] * len(data) if arguments[-1] is Ellipsis or origin is list else arguments
        return tuple(from_json(k, item) for k, item in zip(kinds, data, strict=True))
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    return Path(data) if kind is Path else data


def _member(members: tuple, data: Any) -> Any:
    """The member of a union that the data belong to; a dataclass is known by its fields."""
    for member in members:
        if dataclasses.is_dataclass(member):
            if isinstance(data, dict) and set(data) <= {f.name for f in dataclasses.fields(member)}:
                return member
        elif isinstance(data, list):
            if typing.get_origin(member) in (tuple, list):
                return member
        elif isinstance(member, type) and type(data) is member:
            return member
    # JSON writes paths as strings, and may write a float without its point.
    for written, member in ((str, Path), (int, float)):
        if type(data) is written and member in members:
            return member
    return Any


def differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    """Fields in which two configs (dataclasses or their JSON) differ, as ``name: value of a, value of b``."""
    a, b = to_json(a), to_json(b)
    if isinstance(a, dict) and isinstance(b, dict):
        found = []
        for name in [*a, *(name for name in b if name not in a)]:
            path = f"{prefix}.{name}" if prefix else name
            if name not in a or name not in b:
                found.append(f"{path}: only in the {'first' if name in a else 'second'}")
            else:
                found += differences(a[name], b[name], path)
        return found
    return [] if a == b else [f"{prefix}: {_short(a)} against {_short(b)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
