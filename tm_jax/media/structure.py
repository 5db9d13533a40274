"""Whether the parts that a media file is made of reach its end: what a cut or a hole leaves behind.

FFmpeg plays up to a fault of this kind and ends as if nothing were missing.
"""

import dataclasses
import os
from pathlib import Path
from typing import BinaryIO

_TAIL = 1 << 17
_PACKETS = (188, 192, 204)
"""Sizes of the packets of a transport stream."""


@dataclasses.dataclass(frozen=True)
class Structure:
    """What was found."""

    lacking: int = 0
    """Bytes that the last part promises and that are not there."""
    broken: int | None = None
    """Where no part follows the one before it."""
    unended: bool = False
    """The mark of the end is missing, or stands in the middle of a part."""
    granule: int | None = None
    """Samples (of an ogg file with one stream) up to its last page."""


def structure(path: Path, form: str) -> Structure:
    """Look at a file's parts.

    Args:
      form: the name that FFmpeg gives the container; of others than those that are known nothing is said.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if form == "ogg":
            return _ogg(file, size)
        if form == "mpegts":
            return Structure(unended=all(size % packet for packet in _PACKETS))
        if form == "mpeg":
            file.seek(max(0, size - 4))
            return Structure(unended=file.read() != b"\x00\x00\x01\xb9" and size % 2048 != 0)
        begins = {"mov,mp4,m4a,3gp,3g2,mj2": 0, "caf": 8, "w64": 40, "avi": 0}
        if form == "voc":
            file.seek(20)
            begins["voc"] = int.from_bytes(file.read(2), "little")
        if form not in begins:
            return Structure()
        at = begins[form]
        while at < size:
            file.seek(at)
            following = _PARTS[form](file, at)
            if following is None:
                file.seek(at)
                odd = file.read(1024 + size // 100)
                # Some padding does no harm.
                if at + len(odd) < size:
                    return Structure(broken=at)
                return Structure(unended=any(odd))
            if following < 0:
                return Structure()
            at = following
        return Structure(lacking=at - size)


def _named(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 or byte == 0xA9 for byte in name)


def _box(file: BinaryIO, at: int) -> int | None:
    """Where the part after an mp4's part at this place begins; −1 if that one reaches to the end."""
    head = file.read(16)
    size, header = int.from_bytes(head[:4]), 8
    if not _named(head[4:8]):
        return None
    if size == 1:
        size, header = int.from_bytes(head[8:16]), 16
    return -1 if size == 0 else (at + size if size >= header else None)


def _caf(file: BinaryIO, at: int) -> int | None:
    head = file.read(12)
    size = int.from_bytes(head[4:12], signed=True)
    if not _named(head[:4]):
        return None
    return -1 if size == -1 else at + 12 + size


def _w64(file: BinaryIO, at: int) -> int | None:
    head = file.read(24)
    size = int.from_bytes(head[16:24], "little")
    if not _named(head[:4]) or size < 24:
        return None
    return -1 if size >= 1 << 62 else at + (size + 7) // 8 * 8


def _avi(file: BinaryIO, at: int) -> int | None:
    head = file.read(8)
    size = int.from_bytes(head[4:8], "little")
    if not _named(head[:4]):
        return None
    return -1 if size in (0, 0xFFFFFFFF) else at + 8 + size + size % 2


def _voc(file: BinaryIO, at: int) -> int | None:
    head = file.read(4)
    if head[0] == 0:
        return -1
    return at + 4 + int.from_bytes(head[1:4], "little") if head[0] < 10 else None


_PARTS = {"mov,mp4,m4a,3gp,3g2,mj2": _box, "caf": _caf, "w64": _w64, "avi": _avi, "voc": _voc}


def _ogg(file: BinaryIO, size: int) -> Structure:
    """The last page is to be whole and marked as the last."""
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :] if b"OggS" in tail else b""
    whole = len(page) > 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
    file.seek(0)
    head, streams, at = file.read(_TAIL), set(), 0
    while head[at : at + 4] == b"OggS" and head[at + 5] & 2:
        streams.add(head[at + 14 : at + 18])
        at += 27 + head[at + 26] + sum(head[at + 27 : at + 27 + head[at + 26]])
    granule = None
    if whole and streams == {page[14:18]}:
        granule = int.from_bytes(page[6:14], "little", signed=True)
    return Structure(unended=not whole or not page[5] & 4, granule=granule)
