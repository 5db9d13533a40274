"""Files are checked where they enter: what no reader could open, and what cannot be written."""

import os
from pathlib import Path

import av

from tm_jax.errors import InputError


def check_file(path: Path, what: str) -> None:
    """Refuse what no reader could open.

    Raises:
      InputError: the path is missing, a directory, empty or unreadable.
    """
    if not os.path.exists(path):
        raise InputError(f"There is no {what} {path}: check the path.")
    if path.is_dir():
        raise InputError(f"The {what} {path} is a directory: name one file in it.")
    if not os.access(path, os.R_OK):
        raise InputError(f"The {what} {path} may not be read: check its permissions.")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"The {what} {path} is empty: export or download it again.")


def open_media(path: Path, what: str) -> av.container.InputContainer:
    check_file(path, what)
    try:
        # Playlists inside a media file must not reach for the network.
        return av.open(str(path), options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"The {what} {path} is no media file, or it is damaged or cut off: convert or copy it again."
        ) from error


def check_writable(path: Path) -> None:
    """Try whether a file can be written, without touching one that is there already.

    Raises:
      InputError: a directory, in no existing folder, or not permitted.
    """
    if os.path.isdir(path):
        raise InputError(f"The output {path} is a directory: give a file name inside it.")
    if not os.path.isdir(path.parent):
        raise InputError(f"The folder {path.parent} of the output {path} does not exist: make it first.")
    present = os.path.exists(path)
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        reason = error.strerror
        raise InputError(f"The output {path} cannot be written ({reason}): choose another.") from error
    if not present:
        path.unlink()
