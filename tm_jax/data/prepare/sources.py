"""Which videos there are, what is known of each, and which process works on which."""

import codecs
import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tm_jax.data.prepare.settings import check_box
from tm_jax.errors import InputError
from tm_jax.media.files import shown

ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"),
    *(".mts", ".m2ts", ".3gp", ".3g2", ".ogv", ".f4v", ".vob", ".asf", ".mxf"),
)
LISTS = (".txt", ".jsonl")


@dataclasses.dataclass(frozen=True)
class Source:
    """One video to prepare."""

    path: Path
    """The file."""
    prompt: str | None = None
    """Its own prompt."""
    face_box: tuple[int, int, int, int] | None = None
    """Where its face is, in pixels of the upright video."""


@contextlib.contextmanager
def one_video(source: Source) -> Iterator[None]:
    """Turns whatever one video raises into the reason for which it is dropped.

    Raises:
      InputError: instead of any other exception.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{shown(source.path)} cannot be decoded ({type(error).__name__}: {reason}): convert it again."
        ) from error


def find_videos(inputs: tuple[Path, ...]) -> list[Source]:
    """Every video of folders, files and lists, each once whatever its names, sorted by path.

    Raises:
      InputError: a path that is not there, a folder or list without videos, a line that makes no sense.
    """
    found: dict[tuple, Source] = {}
    for path in inputs:
        here = list(_of(path))
        if not here:
            raise InputError(f"There is no video in {shown(path)}: known endings are {' '.join(ENDINGS)}.")
        for source in here:
            found.setdefault(_itself(source.path), source)
    if not found:
        raise InputError("No videos were given: name folders, files or lists after --videos.")
    return sorted(found.values(), key=lambda source: source.path.absolute())


def _itself(path: Path) -> tuple:
    """What two names of one file have in common, be it by links or by spelling."""
    try:
        status = path.stat()
    except OSError:
        return (os.path.realpath(path),)
    return status.st_dev, status.st_ino


def _of(path: Path) -> Iterator[Source]:
    if path.is_dir():
        yield from map(Source, sorted(_within(path, set())))
    elif not path.exists():
        raise InputError(f"There is no video, list or folder {shown(path)}: check the path.")
    elif path.suffix.lower() in LISTS:
        yield from _listed(path)
    else:
        yield Source(path)


def _within(folder: Path, seen: set[tuple]) -> Iterator[Path]:
    """The videos in a folder and below, through links too, but through no folder twice."""
    if _itself(folder) in seen:
        return
    seen.add(_itself(folder))
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"The folder {shown(folder)} cannot be read ({error.strerror}): check its permissions."
        ) from error
    for entry in entries:
        if entry.is_dir():
            yield from _within(entry, seen)
        # A link to nothing is kept: the report tells of it.
        elif entry.suffix.lower() in ENDINGS and not entry.name.startswith("."):
            if entry.is_file() or not entry.exists():
                yield entry


def _listed(path: Path) -> Iterator[Source]:
    name = shown(path)
    try:
        content = path.read_bytes()
        # Windows' editors begin a text with a mark of its encoding; names of files need not be UTF-8.
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16") if wide else content.decode("utf-8-sig", "surrogateescape")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The list {name} is not readable text ({error}): write it again.") from error
    for number, line in enumerate(re.split("\r\n|\n|\r", text), 1):
        if not line.strip():
            continue
        where = f"line {number} of {name}"
        source = _entry(line, where) if path.suffix.lower() == ".jsonl" else Source(Path(line.strip()))
        source = dataclasses.replace(source, path=path.parent / source.path)
        try:
            there = source.path.is_file()
        except ValueError:
            there = False
        if not there:
            raise InputError(f"There is no video {shown(source.path)} ({where}): mend the list.")
        yield source


def _entry(line: str, where: str) -> Source:
    try:
        entry = json.loads(line)
        video, prompt, box = entry.pop("video"), entry.pop("prompt", None), entry.pop("face_box", None)
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f'There is no {{"video": …}} object in {where}: write one JSON object a line.'
        ) from error
    if entry or not isinstance(video, str) or not isinstance(prompt, str | None):
        raise InputError(f'The object in {where} is to hold "video", "prompt" and "face_box" and no more.')
    if box is not None:
        check_box(tuple(box) if isinstance(box, list) else (), f"face_box in {where}:")
        box = tuple(box)
    return Source(Path(video), prompt, box)


def held_out(sources: list[Source], share: float) -> set[Path]:
    """The videos kept from training: those with the smallest hash of their path, at least one of ten."""
    count = round(share * len(sources))
    if share and len(sources) >= 10:
        count = max(1, count)
    by_hash = sorted(sources, key=lambda source: hashlib.sha256(os.fsencode(source.path)).digest())
    return {source.path for source in by_hash[:count]}


def list_digest(sources: list[Source]) -> str:
    """A short digest of the list of videos with all that was said of them."""
    listed = [[str(source.path), source.prompt, source.face_box] for source in sources]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:12]


def groups(sources: list[Source], per_shard: int) -> list[list[Source]]:
    """The videos of each shard: a function of the list alone, whatever the number of processes."""
    return [sources[start : start + per_shard] for start in range(0, len(sources), per_shard)]
