"""Files are checked where they enter: what no reader could open, and what cannot be written."""

import contextlib
import fcntl
import os
import secrets
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import av

from tm_jax.errors import InputError


def shown(path: str | os.PathLike) -> str:
    """A file's name as one line of text: what is not UTF-8, line breaks and the like become ``\\xe9``."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(f"\\x{ord(mark):02x}" if unicodedata.category(mark) == "Cc" else mark for mark in text)


def check_file(path: Path, what: str) -> None:
    """Refuse what no reader could open.

    Raises:
      InputError: the path is missing, a directory, empty or unreadable.
    """
    name = shown(path)
    try:
        os.stat(path)
        there = True
    except PermissionError as error:
        raise InputError(f"The {what} {name} may not be reached: check its folders' permissions.") from error
    except OSError:
        there = False
    except ValueError as error:
        raise InputError(f"There can be no {what} {name!r} ({error}): check the path.") from error
    if not there:
        raise InputError(f"There is no {what} {name}: check the path.")
    if path.is_dir():
        raise InputError(f"The {what} {name} is a directory: name one file in it.")
    if not os.access(path, os.R_OK):
        raise InputError(f"The {what} {name} may not be read: check its permissions.")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"The {what} {name} is empty: export or download it again.")


def media_url(path: str | os.PathLike) -> str:
    """A file's name as FFmpeg takes it, which sees a protocol in everything before a colon."""
    return "file:" + os.path.abspath(path)


def open_media(path: Path, what: str) -> av.container.InputContainer:
    """A media file, opened and not yet decoded.

    Raises:
      InputError: as ``check_file``, or no media file.
    """
    check_file(path, what)
    try:
        # Playlists inside a media file must not reach for the network.
        return av.open(media_url(path), options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"The {what} {shown(path)} is no media file, or it is damaged or cut off: "
            "convert or copy it again."
        ) from error


def check_writable(path: Path) -> None:
    """Try whether a file can be written, without touching one that is there already.

    Raises:
      InputError: a directory, in no existing folder, or not permitted.
    """
    name = shown(path)
    if os.path.isdir(path):
        raise InputError(f"The output {name} is a directory: give a file name inside it.")
    if not os.path.isdir(path.parent):
        raise InputError(
            f"The folder {shown(path.parent)} of the output {name} does not exist: make it first."
        )
    try:
        if os.path.exists(path):
            # It may be another run's trial, gone by now: opening makes none.
            with contextlib.suppress(FileNotFoundError):
                os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
        else:
            place = os.path.realpath(path)
            with contextlib.suppress(FileExistsError), open(place, "xb") as trial:
                # Another run may have given its whole file this name meanwhile.
                if os.path.samestat(os.fstat(trial.fileno()), os.stat(place)):
                    os.unlink(place)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"The output {name} cannot be written ({reason}): choose another.") from error


class Beside:
    """A place beside a file to write its next content: the file changes only when that is whole.

    Two runs with one output each write a file of their own, and the last to finish leaves its own.  What is
    no ordinary file (a device, a pipe), or lies in a folder that takes no new file, is written in place.
    """

    def __init__(self, path: str | os.PathLike):
        # A link stays a link: what it points to is replaced.
        self.target = Path(os.path.realpath(path))
        self.place = self.target
        if self.target.is_file() or not self.target.exists():
            name = f"{self.target.stem[:60]}.part-{secrets.token_hex(4)}{self.target.suffix}"
            with contextlib.suppress(OSError):
                os.close(os.open(self.target.with_name(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                self.place = self.target.with_name(name)

    def publish(self) -> None:
        """Give the content its name.

        Raises:
          OSError: there is no room for it, or no right to.
        """
        if self.place == self.target:
            return
        if self.target.exists():
            shutil.copymode(self.target, self.place)
        try:
            os.replace(self.place, self.target)
        except OSError:
            # A file that is mounted by itself takes new content but no other file.
            shutil.copyfile(self.place, self.target)
            self.place.unlink()

    def discard(self) -> None:
        """Leave the file as it was."""
        if self.place != self.target:
            self.place.unlink(missing_ok=True)


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Where to write a file's content; it gets its name if nothing is raised.

    Raises:
      InputError: writing failed, on a full disk for instance; the file is as it was.
    """
    beside = Beside(path)
    try:
        yield beside.place
        beside.publish()
    except (OSError, ValueError) as error:
        beside.discard()
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"Writing {shown(path)} failed ({reason}): is the disk full?") from error
    except BaseException:
        beside.discard()
        raise


@contextlib.contextmanager
def alone(folder: Path, name: str = "running") -> Iterator[None]:
    """Keeps a folder, made if need be, for one run; a run that is killed leaves it free.

    Args:
      name: runs of other names may write the folder at the same time.

    Raises:
      InputError: another run is writing it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / f".{name}.lock", "a")
    except OSError as error:
        raise InputError(f"{shown(folder)} cannot be written ({error.strerror}): choose another.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{shown(folder)} is being written by another run: wait for its end, or choose another."
            ) from None
        except OSError:
            # A file system that knows no locks.
            pass
        yield
