"""The files of our training checkpoints: which there are, whether they are what was written, what they say.

RUN/checkpoints/400/state/…           every array of the training state under its dotted name, by Orbax
RUN/checkpoints/400/meta/…            kind and config of the run, its step, and what the loop adds
RUN/checkpoints/sizes-400.json        size of each file, and checksums of the small ones
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from tm_jax.errors import InputError
from tm_jax.pretrained.runs import saved_steps

FORMAT = 2
"""Raised when what a checkpoint holds changes its meaning."""
TOGETHER_GB = 1
"""GB of arrays that are read or written at once, beside what the devices hold."""
SMALL = 1 << 20
"""Bytes of a file up to which its content is noted too."""


class Damaged(InputError):
    """A checkpoint cannot be read."""


def named(folder: Path, step: int) -> str:
    """How a checkpoint is called in a sentence."""
    return f"The checkpoint {folder.parent.name}/{folder.name}/{step}"


@contextmanager
def failures(explain: Callable[[Exception], InputError]) -> Iterator[None]:
    """Turns what libraries raise into one sentence; a collective that failed for want of a process is not
    ours to explain."""
    try:
        yield
    except Exception as error:
        # A damaged checkpoint ends in whatever its readers stumble over, a plain Exception among it.
        cause: BaseException | None = error
        while cause is not None and jax.process_count() > 1:
            if isinstance(cause, jax.errors.JaxRuntimeError):
                raise cause from None
            cause = cause.__cause__
        raise explain(error) from error


def reading(folder: Path, step: int) -> AbstractContextManager[None]:
    """Turns what a damaged checkpoint raises into one sentence."""
    return failures(lambda error: Damaged(f"{named(folder, step)} cannot be read ({reason(error)})"))


def reason(error: Exception) -> str:
    """The first line of what a library says, without its own details."""
    text = str(error).strip().split("\n")[0].split(" [tensorstore_spec")[0]
    return text[:200] or type(error).__name__


def _noted(folder: Path, step: int) -> Path:
    return folder / f"sizes-{step}.json"


def note_sizes(folder: Path) -> None:
    """Notes the sizes of finished checkpoints' files, and forgets those of deleted ones."""
    steps = saved_steps(folder)
    for path in folder.glob("sizes-*.json"):
        if int(path.stem.split("-")[1]) not in steps:
            path.unlink(missing_ok=True)
    for step in steps:
        noted = _noted(folder, step)
        if not noted.exists():
            partial = noted.with_suffix(".partial")
            partial.write_text(json.dumps(_marks(folder / str(step))), encoding="utf-8")
            os.replace(partial, noted)


def forget_sizes(folder: Path, step: int) -> None:
    """Drops what was noted of a checkpoint."""
    _noted(folder, step).unlink(missing_ok=True)


def check_whole(folder: Path, step: int) -> None:
    """Compares a checkpoint's files with what was noted of them, on the first process.

    Raises:
      Damaged: on every process, where they are not what was written; nothing may have been noted.
    """
    if fault := first_process_says(_fault(folder, step)):
        raise Damaged(f"{named(folder, step)} is damaged ({fault})")


def _fault(folder: Path, step: int) -> str | None:
    """What is missing of a checkpoint; None where nothing is, or where nothing was noted."""
    try:
        noted = dict(json.loads(_noted(folder, step).read_text("utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    found = _marks(folder / str(step))
    # Earlier programs noted a size alone.
    alone = {name: mark[0] if isinstance(mark, list) else mark for name, mark in found.items()}
    wrong = [name for name, mark in noted.items() if mark not in (found.get(name), alone.get(name))]
    return f"{wrong[0]} is missing or not what was written" if wrong else None


def _marks(folder: Path) -> dict[str, int | list[int]]:
    """The size of each file, with a checksum where it is small."""
    marks: dict[str, int | list[int]] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            size = path.stat().st_size
            small = size <= SMALL
            marks[str(path.relative_to(folder))] = [size, zlib.crc32(path.read_bytes())] if small else size
    return marks


def check_format(folder: Path, step: int, number: int) -> None:
    """Raises InputError for a checkpoint of a newer program."""
    if number > FORMAT:
        raise InputError(
            f"{named(folder, step)} is of format {number} and this program reads up to {FORMAT}: "
            "update the program, or give the run another name."
        )


def first_process_says(text: str | None) -> str | None:
    """The first process's text on every process."""
    if jax.process_count() == 1:
        return text
    bytes_ = np.frombuffer((text or "").encode()[:256].ljust(256), np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(bytes_)).decode(errors="replace").strip() or None
