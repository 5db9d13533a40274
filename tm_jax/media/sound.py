"""Sound from any file that PyAV reads, as 16 kHz mono blocks in constant memory."""

import dataclasses
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from tm_jax.errors import InputError
from tm_jax.media.files import open_media
from tm_jax.rates import SAMPLE_RATE

BLOCK_SAMPLES = 1600
# Containers whose header gives the true length, so that a missing end can be told.
_EXACT_LENGTH = ("flac", "aiff", "mov,mp4,m4a,3gp,3g2,mj2")


@dataclasses.dataclass(frozen=True)
class Sound:
    """A sound that is opened but not read: iterate over it once, in constant memory."""

    blocks: Iterator[np.ndarray]
    """16 kHz mono float32 blocks."""
    seconds: float | None
    """Length as the file states it; None where it is unknown, as on standard input."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.blocks


def read_audio(source: str | os.PathLike, stdin: io.IOBase | None = None) -> Sound:
    """Open a sound file, the sound of a video, or ``-`` for raw s16le 16 kHz mono on standard input.

    Stereo is averaged.  Whatever is wrong with the beginning is refused here, before anything is computed;
    damage further on raises from the iteration, after all sound before it has been delivered.

    Raises:
      InputError: missing, empty, foreign, truncated or damaged file, no sound in it, or values that are no
        numbers.
    """
    if str(source) == "-":
        return Sound(_first_now(_raw_blocks(stdin or sys.stdin.buffer), "standard input"), None)
    path = Path(source)
    container = open_media(path, "audio file")
    _check_riff(path)
    if not container.streams.audio:
        container.close()
        raise InputError(f"{path} has no audio stream: give a file with sound.")
    stream = container.streams.audio[0]
    seconds = None
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration:
        seconds = container.duration / av.time_base
    blocks = _decoded_blocks(path, container, seconds)
    return Sound(_first_now(blocks, str(path)), seconds)


def _check_riff(path: Path) -> None:
    """Refuse a wav file that is shorter than its header says; FFmpeg plays it without a word."""
    with path.open("rb") as file:
        head = file.read(8)
        size = file.seek(0, os.SEEK_END)
    promised = int.from_bytes(head[4:], "little") + 8
    # Recorders that write to a pipe leave the length open as some huge number.
    if head[:4] == b"RIFF" and size + 1 < promised < 0x7FFFFF00:
        raise InputError(
            f"{path} is cut off: its header promises {promised} bytes and {size} are there; copy it again."
        )


def _first_now(blocks: Iterator[np.ndarray], name: str) -> Iterator[np.ndarray]:
    """The same blocks with the first one read already, so that its faults show at once."""
    first = next(blocks, None)
    if first is None:
        raise InputError(f"There is no sound in {name}: give at least one sample.")

    def all_blocks():
        yield first
        yield from blocks

    return all_blocks()


def _raw_blocks(stdin: io.IOBase) -> Iterator[np.ndarray]:
    # os.read returns what has arrived, and a thread waiting in it does not hinder the program's exit.
    try:
        descriptor = stdin.fileno()
        read = lambda: os.read(descriptor, 2 * BLOCK_SAMPLES)
    except OSError:
        read = lambda: stdin.read(2 * BLOCK_SAMPLES)
    kept = b""
    while data := read():
        data = kept + data
        whole = len(data) // 2 * 2
        kept = data[whole:]
        if whole:
            yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768.0


def _decoded_blocks(
    path: Path, container: av.container.InputContainer, seconds: float | None
) -> Iterator[np.ndarray]:
    delivered = 0
    with container:
        try:
            for block in _resampled(container):
                if not (numbers := np.isfinite(block)).all():
                    second = (delivered + int(numbers.argmin())) / SAMPLE_RATE
                    raise InputError(
                        f"{path} holds samples that are not numbers (NaN or infinity) near {second:.1f} s: "
                        "export it again."
                    )
                delivered += len(block)
                yield block
        except (av.FFmpegError, OSError) as error:
            raise InputError(
                f"{path} is damaged or cut off after {delivered / SAMPLE_RATE:.1f} s of sound: "
                "copy or convert it again."
            ) from error
        exact = container.format.name in _EXACT_LENGTH
    if delivered and exact and seconds and delivered / SAMPLE_RATE < 0.98 * seconds - 0.1:
        raise InputError(
            f"{path} is cut off: its header promises {seconds:.1f} s of sound and "
            f"{delivered / SAMPLE_RATE:.1f} s are there; copy it again."
        )


def _resampled(container: av.container.InputContainer) -> Iterator[np.ndarray]:
    """Decode, resample, fold to mono; blocks of bounded size whatever the file's own frames."""
    stream = container.streams.audio[0]
    resampler = None
    for frame in container.decode(stream):
        if resampler is None:
            # FFmpeg folds stereo to mono with a gain of 3 dB; a mean keeps the level.
            layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
            resampler = av.AudioResampler("fltp", layout, SAMPLE_RATE)
        frame.pts = None
        for piece in resampler.resample(frame):
            yield from _mono_blocks(piece)
    if resampler is not None:
        for piece in resampler.resample(None):
            yield from _mono_blocks(piece)


def _mono_blocks(frame: av.AudioFrame) -> Iterator[np.ndarray]:
    mono = frame.to_ndarray().mean(axis=0, dtype=np.float32)
    for start in range(0, len(mono), BLOCK_SAMPLES):
        yield mono[start : start + BLOCK_SAMPLES]
