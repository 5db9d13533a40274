"""Standard input: every container that plays from its beginning, raw samples, and what is neither."""

import io
import os
import threading
import wave

import numpy as np
import pytest

from tests.media.sounds import FORMATS, SECONDS, write
from tm_jax.errors import InputError
from tm_jax.media.sound import read_audio


def piped(content: bytes) -> float:
    """Seconds of sound that come out of a pipe."""
    reading, writing = os.pipe()

    def feed():
        with os.fdopen(writing, "wb") as file:
            try:
                file.write(content)
            except BrokenPipeError:
                pass

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        with os.fdopen(reading, "rb") as stdin:
            return sum(map(len, read_audio("-", stdin=stdin))) / 16_000
    finally:
        thread.join()


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_decoded_or_refused(tmp_path, name):
    path = write(tmp_path / "a", name)
    with path.open("rb") as file:
        assert abs(sum(map(len, read_audio("-", stdin=file))) / 16_000 - SECONDS) < 0.13, "as a file"
    # An index at the end of a file of some length is out of reach.
    if name in ("m4a", "mov"):
        path = write(path, name, 20.0)
        with pytest.raises(InputError, match="index at its end: give --audio the file itself"):
            piped(path.read_bytes())
    else:
        assert abs(piped(path.read_bytes()) - SECONDS) < 0.13


def test_samples_are_samples(rng):
    quiet = (rng.normal(size=16_000) * 300).astype("<i2")
    for first in (b"", b"\xff\xfb", b"\xff\xf1", b"G\0", b"\x0b\x77", bytes(100)):
        assert piped(first + quiet.tobytes()) == pytest.approx(1.0, abs=0.01), first
    assert piped(b"\x01\x02\x03") == 1 / 16_000


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\xff\xd8\xff\xe0" + bytes(100),
        b"PK\x03\x04" + bytes(99),
        b"Dear reader, this is no sound at all.\n" * 20,
    ],
)
def test_what_is_no_sound_is_refused(content):
    with pytest.raises(InputError, match="holds no sound"):
        piped(content)


def test_closed_input_and_a_terminal_are_told(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="Standard input is closed: pipe the sound in"):
        read_audio("-")
    closed = io.BytesIO(b"")
    closed.close()
    with pytest.raises(InputError, match="is closed"):
        read_audio("-", stdin=closed)
    terminal = type("Terminal", (io.BytesIO,), {"isatty": lambda self: True})()
    with pytest.raises(InputError, match="is a terminal"):
        read_audio("-", stdin=terminal)


def test_samples_are_heard_as_they_arrive():
    reading, writing = os.pipe()
    os.write(writing, np.full(400, 1000, "<i2").tobytes())
    with os.fdopen(reading, "rb") as stdin:
        sound = iter(read_audio("-", stdin=stdin))
        first = next(sound)
        os.close(writing)
        assert len(first) + sum(map(len, sound)) == 400


@pytest.mark.parametrize("seekable", [True, False])
def test_a_recording_behind_the_first_is_told(tmp_path, seekable):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.full(8000, 900, "<i2").tobytes())
    for count in (1, 2):
        (tmp_path / "b.wav").write_bytes(path.read_bytes() * count)
        with open(tmp_path / "b.wav", "rb") as file:
            sound = read_audio("-", stdin=file if seekable else io.BytesIO(file.read()))
            assert sum(map(len, sound)) == 8000
        assert len(sound.notes) == count - 1 and all("several recordings" in note for note in sound.notes)
