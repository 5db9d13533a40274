"""Which videos there are, what is known of each, and which process works on which."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from tm_jax.data.prepare.settings import check_box
from tm_jax.errors import InputError

ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv")
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


def find_videos(inputs: tuple[Path, ...]) -> list[Source]:
    """Every video of folders, files and lists, each once, sorted by path.

    Raises:
      InputError: a path that is not there, a folder or list without videos, a line that makes no sense.
    """
    found: dict[Path, Source] = {}
    for path in inputs:
        here = list(_of(path))
        if not here:
            raise InputError(f"There is no video in {path}: known endings are {' '.join(ENDINGS)}.")
        for source in here:
            found.setdefault(source.path.absolute(), source)
    if not found:
        raise InputError("No videos were given: name folders, files or lists after --videos.")
    return [found[path] for path in sorted(found)]


def _of(path: Path) -> Iterator[Source]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in ENDINGS and file.is_file() and not file.name.startswith("."):
                yield Source(file)
    elif not path.exists():
        raise InputError(f"There is no video, list or folder {path}: check the path.")
    elif path.suffix in LISTS:
        yield from _listed(path)
    else:
        yield Source(path)


def _listed(path: Path) -> Iterator[Source]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The list {path} is not readable text ({error}): write it again.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        source = _entry(line, f"line {number} of {path}") if path.suffix == ".jsonl" else Source(Path(line))
        source = dataclasses.replace(source, path=path.parent / source.path)
        if not source.path.is_file():
            raise InputError(f"There is no video {source.path} (line {number} of {path}): mend the list.")
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
    by_hash = sorted(sources, key=lambda source: hashlib.sha256(str(source.path).encode()).digest())
    return {source.path for source in by_hash[:count]}


def list_digest(sources: list[Source]) -> str:
    """A short digest of the list of videos with all that was said of them."""
    listed = [[str(source.path), source.prompt, source.face_box] for source in sources]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:12]


def groups(sources: list[Source], per_shard: int) -> list[list[Source]]:
    """The videos of each shard: a function of the list alone, whatever the number of processes."""
    return [sources[start : start + per_shard] for start in range(0, len(sources), per_shard)]
