"""The header of a wav file against what follows it; FFmpeg plays whatever is there without a word.

Only the data chunk is judged: recorders that write to a pipe cannot know the file's size, and some get it
wrong by a few bytes.
"""

import os
from pathlib import Path
from typing import BinaryIO

from tm_jax.errors import InputError
from tm_jax.media.files import shown

OPEN = ((0x7FFF0000, 0x80010000), (0xFFFF0000, 0x100000000))
"""Sizes that mean "until the end": recorders that write to a pipe put 0x7ffff000, 0xffffffff and the like."""
SLIP = 64
"""Bytes by which some writers count the header among the data."""

_RIFF, _LARGE = b"RIFF", (b"RF64", b"BW64")
_UNCOMPRESSED = (1, 3)


def is_open(size: int) -> bool:
    """Whether a size in a header leaves the length open."""
    return size == 0 or size >= 1 << 62 or any(low <= size < high for low, high in OPEN)


def check_wav(path: Path) -> str | None:
    """Compare a wav file with its header; what is odd but plays is returned as a sentence.

    Files of other kinds are not looked at.

    Raises:
      InputError: the data chunk is shorter than it says.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(12)
        if head[:4] not in (_RIFF, *_LARGE) or head[8:] != b"WAVE":
            return None
        large = 0
        rate = width = pace = 0
        note = None
        while len(chunk := file.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                return _data(path, file, size, large or length, pace) or note
            start = file.tell()
            if chunk[:4] == b"ds64" and head[:4] in _LARGE:
                large = int.from_bytes(file.read(16)[8:], "little")
            elif chunk[:4] == b"fmt ":
                form = file.read(16)
                code, channels, rate, pace, width, bits = (
                    int.from_bytes(form[start:stop], "little")
                    for start, stop in ((0, 2), (2, 4), (4, 8), (8, 12), (12, 14), (14, 16))
                )
                if code in _UNCOMPRESSED and (pace != rate * width or width != channels * ((bits + 7) // 8)):
                    note = (
                        f"The header of {shown(path)} contradicts itself ({rate} samples a second of "
                        f"{channels} × {bits} bits, and {pace} bytes a second): its sound may be wrong."
                    )
            file.seek(start + length + length % 2)
    return note


def _data(path: Path, file: BinaryIO, size: int, promised: int, pace: int) -> str | None:
    """Judge the data chunk, at whose content the file stands."""
    start = file.tell()
    there = size - start
    if promised > there + SLIP and not is_open(promised):
        of = lambda count: f"{count / pace:.1f} s" if pace else f"{count} bytes"
        raise InputError(
            f"{shown(path)} is cut off: its header promises {of(promised)} of sound ({promised} bytes) and "
            f"{of(there)} ({there} bytes) are there; copy it again."
        )
    if is_open(promised) or promised >= there:
        return None
    # What follows the sound are chunks, or the size is wrong.
    after = start + promised + promised % 2
    while after + 8 <= size:
        file.seek(after)
        chunk = file.read(8)
        if not all(32 <= byte < 127 for byte in chunk[:4]):
            break
        after += 8 + int.from_bytes(chunk[4:], "little") + int.from_bytes(chunk[4:], "little") % 2
    odd = size - after
    if odd > SLIP:
        return (
            f"{shown(path)} holds {odd} bytes after its sound that its header does not tell of: "
            "some of the sound may be missing."
        )
    return None
