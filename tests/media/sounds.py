"""One short sound in every format that PyAV can write here, and files put together by hand."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SECONDS = 2.5
FORMATS = {
    "wav": ("wav", "pcm_s16le", 16_000, "mono"),
    "float wav": ("wav", "pcm_f32le", 44_100, "stereo"),
    "w64": ("w64", "pcm_s16le", 16_000, "mono"),
    "flac": ("flac", "flac", 16_000, "mono"),
    "mp3": ("mp3", "libmp3lame", 44_100, "stereo"),
    "aac": ("adts", "aac", 44_100, "stereo"),
    "ac3": ("ac3", "ac3", 48_000, "stereo"),
    "opus": ("ogg", "libopus", 48_000, "mono"),
    "m4a": ("ipod", "aac", 44_100, "stereo"),
    "quick mp4": ("mp4", "aac", 16_000, "mono"),
    "mov": ("mov", "pcm_s16le", 16_000, "mono"),
    "mkv": ("matroska", "aac", 44_100, "stereo"),
    "webm": ("webm", "libopus", 48_000, "mono"),
    "ts": ("mpegts", "aac", 44_100, "stereo"),
    "avi": ("avi", "pcm_s16le", 16_000, "mono"),
    "flv": ("flv", "aac", 44_100, "stereo"),
    "aiff": ("aiff", "pcm_s16be", 16_000, "mono"),
    "caf": ("caf", "pcm_s16be", 16_000, "mono"),
    "au": ("au", "pcm_s16be", 16_000, "mono"),
}
"""Name → container, codec, rate and layout."""


def hum(seconds: float, rate: int) -> np.ndarray:
    """A tone with noise on it: no two frames are alike."""
    noise = np.random.default_rng(0).uniform(0.5, 1, round(seconds * rate))
    return (0.3 * np.sin(2 * np.pi * 300 * np.arange(len(noise)) / rate) * noise).astype(np.float32)


def write(path: Path, name: str, seconds: float = SECONDS) -> Path:
    """The sound in a format of FORMATS."""
    form, codec, rate, layout = FORMATS[name]
    options = {"movflags": "faststart"} if name == "quick mp4" else {}
    channels = np.stack([hum(seconds, rate)] * {"mono": 1, "stereo": 2}[layout])
    with av.open(str(path), "w", format=form, options=options) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def wav(samples: int, riff: int | None = None, data: int | None = None, **fields: int) -> bytes:
    """A 16 kHz mono wav file whose header may lie: sizes of the file and the data, rate, width and pace."""
    content = (hum(samples / 16_000, 16_000) * 32767).astype("<i2").tobytes()
    given = {"channels": 1, "rate": 16_000, "pace": 32_000, "width": 2, "bits": 16} | fields
    form = struct.pack("<HHIIHH", 1, *given.values())
    head = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data"
    sizes = len(head) + 4 + len(content) if riff is None else riff, len(content) if data is None else data
    return b"RIFF" + struct.pack("<I", sizes[0]) + head + struct.pack("<I", sizes[1]) + content
