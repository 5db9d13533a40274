"""Sound on standard input: a file that plays from its beginning, or raw samples.

A file is known by its first bytes.  Frames without a container (mp3, AAC) begin with bytes that samples
could have too: they count only if the next frame follows where the first one says.
"""

import io
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator

import av
import numpy as np

from tm_jax.errors import InputError
from tm_jax.media.bare_frames import frame_size
from tm_jax.media.joined import HEAD, heads

BLOCK = 3200
LOOK = 8192
"""Bytes that are looked at where the first ones leave it open."""
_WAKE_MS = 200
REFUSED = (
    "The file on standard input is damaged, or cannot be read from its beginning alone, like an mp4 with its "
    "index at its end: give --audio the file itself."
)

_SOUND = (
    *((0, mark) for mark in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff\x2e\x91\xcf\x11", b"fLaC", b"OggS")),
    *((0, mark) for mark in (b"\x1a\x45\xdf\xa3", b"FORM", b".snd", b"caff", b"FLV\x01", b"#!AMR", b"wvpk")),
    *((0, mark) for mark in (b"ID3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"MAC ", b"TTA1", b"DSD ")),
    *((0, mark) for mark in (b"NIST_1A", b"Creative Voice", b"\x72\xf8\x1f\x4e", b"\x7f\xfe\x80\x01")),
    *((4, mark) for mark in (b"ftyp", b"moov", b"moof", b"styp", b"mdat", b"wide", b"free", b"skip")),
    (0, b"\x00\x00\x01\xba"),
)
_OTHER = (
    *((0, mark) for mark in (b"\x89PNG", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1", b"GIF8", b"%PDF-")),
    *((0, mark) for mark in (b"PK\x03\x04", b"\x1f\x8b\x08", b"\xfd7zXZ", b"BZh", b"7z\xbc\xaf", b"Rar!")),
    *((0, mark) for mark in (b"MThd", b"\x7fELF", b"#EXTM3U", b"SQLite format", b"\x28\xb5\x2f\xfd")),
)


def open_standard_input(
    stdin: io.IOBase | None = None,
) -> tuple[av.container.InputContainer | Iterator[np.ndarray], Callable[[], None], set[str]]:
    """What is on standard input: a container that was recognised, or blocks of raw s16le 16 kHz mono.

    With it come a function that ends it at once, for whoever waits for more in another thread, and the
    containers of which another recording was seen to begin behind the first; it fills as it is read.

    Raises:
      InputError: it is closed, a terminal, no sound, or a file that cannot be played from its beginning.
    """
    stdin = stdin or getattr(sys.stdin, "buffer", None)
    if stdin is None or stdin.closed:
        raise InputError("Standard input is closed: pipe the sound in, or give --audio a file.")
    if stdin.isatty():
        raise InputError("Standard input is a terminal: pipe the sound in, or give --audio a file.")
    pipe = _Pipe(stdin)
    try:
        pipe.look(16)
    except OSError as error:
        raise InputError(f"Standard input cannot be read ({error.strerror}): pipe the sound in.") from error
    if pipe.known(_OTHER) or _text(pipe.look(512)):
        raise InputError("Standard input holds no sound: pipe a sound file or raw samples in.")
    if not pipe.known(_SOUND) and not _bare_frames(pipe):
        return _samples(pipe), pipe.end, pipe.begun
    try:
        container = av.open(pipe, options={"protocol_whitelist": ""}, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(REFUSED) from error
    if container.format.name == "wv" and not hasattr(pipe, "seek"):
        raise InputError(REFUSED)
    return container, pipe.end, pipe.begun


class _Pipe:
    """Standard input with a look ahead; reads return what has arrived.

    A thread that waits in a read could not be woken: it looks now and then whether it is to go on.
    """

    def __init__(self, stdin: io.IOBase):
        self._ahead, self._ended = b"", False
        self.begun: set[str] = set()
        self._place, self._last = 0, b""
        self._over = threading.Event()
        self.end = self._over.set
        try:
            descriptor = stdin.fileno()
        except OSError:
            self._more: Callable[[int], bytes] = stdin.read
        else:
            self._more = lambda size: os.read(descriptor, size) if self._arrived(descriptor) else b""
            if stdin.seekable():
                self.seek, self.tell = self._seek, self._tell
                self._descriptor = descriptor

    def _arrived(self, descriptor: int) -> bool:
        """Wait for something to read, or the end; False once nothing more is wanted."""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while not self._over.is_set():
            if poll.poll(_WAKE_MS):
                return True
        return False

    def _tell(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_CUR) - len(self._ahead)

    def _seek(self, offset: int, whence: int) -> int:
        """Where standard input is a file: PyAV takes this object for one then."""
        if whence == os.SEEK_CUR:
            offset -= len(self._ahead)
        self._ahead, self._ended, self._last = b"", False, b""
        self._place = os.lseek(self._descriptor, offset, whence)
        return self._place

    def look(self, size: int) -> bytes:
        """The next bytes, which stay."""
        while len(self._ahead) < size and not self._ended:
            more = self._more(size - len(self._ahead))
            self._ended = not more
            self._ahead += more
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        """Some of the next bytes; none at the end."""
        if self._ahead:
            part, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            part = b"" if self._ended else self._more(size)
        seen = self._last + part
        self.begun.update(form for form, at in heads(seen) if self._place - len(self._last) + at > 0)
        self._place, self._last = self._place + len(part), seen[-HEAD:]
        return part

    def known(self, marks: tuple[tuple[int, bytes], ...]) -> bool:
        """Whether one of the marks lies at its place."""
        head = self.look(16)
        return any(head[at : at + len(mark)] == mark for at, mark in marks)


def _text(head: bytes) -> bool:
    """Whether bytes are text: samples would all be loud and of one sign."""
    return len(head) >= 64 and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)


def _bare_frames(pipe: _Pipe) -> bool:
    """Whether mp3, AAC or AC-3 frames or an MPEG transport stream begin here."""
    head = pipe.look(4)
    if head[:1] == b"G" and len(packets := pipe.look(188 * 3 + 1)) > 188 * 3:
        return packets[188] == packets[376] == packets[564] == 0x47
    if head[:2] == b"\x0b\x77":
        return pipe.look(LOOK).find(b"\x0b\x77", 2) > 0
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return False
    seen = pipe.look(LOOK)
    at = 0
    for _ in range(3):
        size = frame_size(seen[at : at + 7])
        if not size:
            return False
        at += size
        if at + 7 > len(seen):
            return True
    return True


def _samples(pipe: _Pipe) -> Iterator[np.ndarray]:
    """Raw samples as float32 blocks."""
    kept = b""
    while data := pipe.read(BLOCK):
        data = kept + data
        whole = len(data) // 2 * 2
        kept = data[whole:]
        if whole:
            yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768.0
