"""Flags of the command line: whatever is wrong with them is told in one sentence, with the nearest flag.

``parse`` reads a dataclass by tyro, ``Parser`` is argparse's.  Neither imports JAX: a mistyped flag is
answered at once.
"""

import argparse
import contextlib
import dataclasses
import difflib
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

# tyro's hook for parse errors is not part of its public interface, which can only print a box and exit;
# requirements.txt pins the version that this was written for.
from tyro import _errors

from tm_jax.errors import InputError

_Config = TypeVar("_Config")

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the shipped weights."""
ShippedPath = typing.Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: the shipped weights)")]
"""A path whose default is inside of the package, which --help need not spell out."""


def parse(
    kind: type[_Config],
    *,
    prog: str,
    args: Sequence[str] | None = None,
    default: _Config | None = None,
    description: str | None = None,
) -> _Config:
    """A dataclass filled from the command line (``args``, or the process's own).

    Args:
        default: the instance whose fields the flags override; without it, fields without a default are
            required.

    Raises:
        InputError: a flag that does not exist, a value that does not fit, or a required flag left out.
    """
    settings: dict[str, Any] = {"config": (tyro.conf.AvoidSubcommands,)}
    if default is not None:
        settings["default"] = default

    def refuse(event: _errors.ParseErrorEvent) -> NoReturn:
        raise InputError(
            _sentence(event, list(_fields(kind, default)))
            or f"the flags do not fit; {prog} --help lists them"
        )

    with _errors.on_parse_error(refuse), contextlib.redirect_stdout(_Fitted(sys.stdout)):
        return tyro.cli(kind, prog=prog, args=args, description=description, **settings)


def fitted(text: str) -> str:
    """Lines that are too long for the terminal, divided between words; each keeps its indentation."""
    width, lines = shutil.get_terminal_size().columns, []
    for line in text.split("\n"):
        if len(_CODES.sub("", line)) > width:
            indent = line[: len(line) - len(line.lstrip())]
            lines += textwrap.wrap(
                line.strip(),
                width,
                initial_indent=indent,
                subsequent_indent=indent[: width // 3] + "  " * line.startswith("usage"),
                break_on_hyphens=False,
            )
        else:
            lines.append(line)
    return "\n".join(lines)


_CODES = re.compile(r"\x1b\[[0-9;]*m")
"""A terminal's codes for colours, which take no room."""


class _Fitted:
    """Standard output whose lines fit the terminal: tyro leaves usages and descriptions as they are."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(fitted(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors are InputErrors; flags are never abbreviated."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, allow_abbrev=False, **settings)

    def format_help(self) -> str:
        """What --help prints, in lines that fit the terminal."""
        return fitted(super().format_help())

    def error(self, message: str) -> NoReturn:
        """Tell what is wrong in one sentence.

        Raises:
            InputError: always.
        """
        if message.startswith("unrecognized arguments: "):
            raise InputError(_unknown(message.split(": ", 1)[1].split(), _flags(self)))
        raise InputError(f"{message}; {self.prog} --help lists all flags")


def _fields(kind: Any, default: Any, prefix: str = "--") -> Iterator[str]:
    """Every flag that tyro makes of a dataclass, whose parts are joined by dots."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        value = field.default if default is None else getattr(default, field.name)
        part = type(value) if dataclasses.is_dataclass(value) else hints[field.name]
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(part):
            yield from _fields(part, value if isinstance(value, part) else None, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
            if part is bool:
                yield f"{prefix}no-{name}"


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    """Every long flag of a parser and of its commands."""
    found: dict[str, None] = {}
    for action in parser._actions:
        found.update(dict.fromkeys(flag for flag in action.option_strings if flag.startswith("--")))
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found.update(dict.fromkeys(_flags(command)))
    return list(found)


def nearest(flag: str, known: Iterable[str]) -> list[str]:
    """The flags that were probably meant: those that end so (``--lr``: ``--optim.lr``), or the most alike."""
    known, flag = list(known), flag.split("=")[0].replace("_", "-")
    whole = difflib.get_close_matches(flag, known, n=1, cutoff=0.75)
    ends = [name for name in known if name.endswith("." + flag.lstrip("-"))]
    return whole or ends[:3] or difflib.get_close_matches(flag, known, n=1, cutoff=0.5)


def _unknown(tokens: Sequence[str], known: Iterable[str]) -> str:
    """A sentence about the tokens that nothing took."""
    flags = [token.split("=")[0] for token in tokens if token.startswith("-")]
    if not flags:
        return f"nothing takes {' '.join(tokens)!r}; --help lists all flags"
    unknown = []
    for flag in flags:
        near = nearest(flag, known)
        unknown.append(f"{flag} (did you mean {' or '.join(near)}?)" if near else flag)
    return f"there is no flag {' and no '.join(unknown)}; --help lists all flags"


def _sentence(event: _errors.ParseErrorEvent, known: Sequence[str]) -> str:
    """What one of tyro's parse errors means; empty for kinds that this program cannot cause."""
    if isinstance(event, _errors.UnrecognizedArgs):
        return _unknown(event.tokens, known)
    if isinstance(event, _errors.MissingArgs):
        if any(token.startswith("-") for token in event.unrecognized_tokens):
            return _unknown(event.unrecognized_tokens, known)
        names = [_name(missing.arg) for missing in event.missing_arguments]
        return f"{' and '.join(names)} must be given; --help lists all flags"
    if isinstance(event, _errors.InvalidChoice):
        return f"{_name(event.argument)} {event.value}: it takes one of {', '.join(event.choices)}"
    if isinstance(event, _errors.BadValue):
        return f"{_name(event.argument)} needs a value after it"
    if isinstance(event, _errors.InstantiationFailure):
        message = re.sub(r"\s+", " ", event.message).strip()
        for kind, wanted in (("int() with base 10", "a whole number"), ("string to float", "a number")):
            if f"{kind}: " in message:
                message = f"it takes {wanted}, not {message.rsplit(': ', 1)[1]}"
        return f"{_name(event.argument)}: {message}" if event.argument is not None else message
    return ""


def _name(argument: Any) -> str:
    """The flag of one of tyro's arguments."""
    return str(argument.lowered.name_or_flags[-1])
