"""Whether one file holds several recordings, of which FFmpeg plays but the first, without a word.

Frames without a container, Ogg, Matroska and transport streams play on; these others do not, or they play the
next header as sound.
"""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_HEADS = {
    "wav": rb"(?:RIFF|RF64|BW64|RIFX)....WAVE[ -~]{4}",
    "aiff": rb"FORM....AIF[FC]",
    "flv": rb"FLV\x01.\0\0\0\x09",
    "tta": rb"TTA1[\x01-\x03]\0.\0.\0",
    "voc": rb"Creative Voice File\x1a",
    "au": rb"\.snd\0[^\xff]{3}.{4}\0\0\0.",
}
"""FFmpeg's name of a container → what each of its recordings begins with."""
HEAD = 32
"""Bytes that are enough to know any of them by."""
_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
_UNPLAYED = 0.05
"""Share of an mp4's media that is not shown, from which on a second index counts as another recording's."""


def heads(content: bytes) -> list[tuple[str, int]]:
    """Containers that a recording may begin in these bytes, by FFmpeg's names, and where."""
    found = ((form, re.search(head, content, re.DOTALL)) for form, head in _HEADS.items())
    return [(form, match.start()) for form, match in found if match is not None]


def joined_at(path: Path, form: str, played: int) -> int | None:
    """The byte at which a second recording begins that is not played; None where there seems to be none.

    Args:
      form: the name that FFmpeg gives the container.
      played: bytes of all packets that are to be shown.
    """
    with path.open("rb") as file:
        if form == _MP4:
            return _second_movie(file, played)
        if form not in _HEADS:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = re.compile(_HEADS[form], re.DOTALL).search(content, 1)
            return None if found is None else found.start()


def _second_movie(file: BinaryIO, played: int) -> int | None:
    """Where the recording of a second index begins in an mp4 of whose media much is not shown."""
    parts = list(_boxes(file))
    indices = [number for number, (_, name, _) in enumerate(parts) if name == b"moov"]
    media = sum(size for _, name, size in parts if name == b"mdat")
    if len(indices) < 2 or media - played < _UNPLAYED * media:
        return None
    behind = parts[indices[0] + 1 : indices[1]]
    return next((at for at, name, _ in behind if name == b"ftyp"), parts[indices[1]][0])


def _boxes(file: BinaryIO) -> Iterator[tuple[int, bytes, int]]:
    """Place, name and size of an mp4's outermost parts."""
    at, end = 0, file.seek(0, 2)
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4])
        size = int.from_bytes(head[8:16]) if size == 1 else (end - at if size == 0 else size)
        yield at, head[4:8], min(size, end - at)
        at += max(8, size)
