"""Sound and video in and out, through PyAV.

Sound of any format, rate and channel count comes out as blocks of 16 kHz mono, and video goes into an
mp4 that plays up to its last second whatever ends the program: it is written in fragments of one
second, and a file closed in the ordinary way gets an ordinary index as well.
"""

import dataclasses
import io
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float32, UInt8

from tm_jax.models.log_mel import SAMPLE_RATE
from tm_jax.types import InputError

FRAMES_PER_SECOND = 25
BLOCK_SAMPLES = 1600
SUFFIXES = (".mp4", ".m4v", ".mov")
# Containers whose header gives the true length, so that a missing end can be told.
_EXACT_LENGTH = ("flac", "aiff", "mov,mp4,m4a,3gp,3g2,mj2")

Block = Float32[np.ndarray, "s"]


@dataclasses.dataclass(frozen=True)
class Sound:
    """A sound that is opened but not read: iterate over it once, in constant memory."""

    blocks: Iterator[np.ndarray]
    """16 kHz mono float32 blocks."""
    seconds: float | None
    """Length as the file states it; None where it is unknown, as on standard input."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.blocks


def check_file(path: Path, what: str) -> None:
    """Refuse what no reader could open.

    Raises:
      InputError: the path is missing, a directory, empty or unreadable.
    """
    if not os.path.exists(path):
        raise InputError(f"There is no {what} {path}: check the path.")
    if path.is_dir():
        raise InputError(f"The {what} {path} is a directory: name one file in it.")
    if not os.access(path, os.R_OK):
        raise InputError(f"The {what} {path} may not be read: check its permissions.")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"The {what} {path} is empty: export or download it again.")


def _open(path: Path, what: str) -> av.container.InputContainer:
    check_file(path, what)
    try:
        # Playlists inside a media file must not reach for the network.
        return av.open(str(path), options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"The {what} {path} is no media file, or it is damaged or cut off: convert or copy it again."
        ) from error


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
    container = _open(path, "audio file")
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


def check_writable(path: Path) -> None:
    """Try whether a file can be written, without touching one that is there already.

    Raises:
      InputError: a directory, in no existing folder, or not permitted.
    """
    if os.path.isdir(path):
        raise InputError(f"The output {path} is a directory: give a file name inside it.")
    if not os.path.isdir(path.parent):
        raise InputError(f"The folder {path.parent} of the output {path} does not exist: make it first.")
    present = os.path.exists(path)
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        reason = error.strerror
        raise InputError(f"The output {path} cannot be written ({reason}): choose another.") from error
    if not present:
        path.unlink()


class VideoWriter:
    """Writes frames and their sound to an mp4 (H.264 yuv420p at 25 fps, AAC mono at 16 kHz).

    The file is made when the first frames come.  Use it as a context: leaving it, by Ctrl-C too, finishes
    the file.

    Args:
      sound: False leaves the audio track out.

    Raises:
      InputError: the path cannot be written, or writing fails later, for instance on a full disk.
    """

    def __init__(self, path: str | os.PathLike, *, sound: bool = True):
        self.path, self._sound = Path(path), sound
        if self.path.suffix.lower() not in SUFFIXES:
            raise InputError(f"The output {path} is to be an mp4: give it a name that ends in .mp4.")
        check_writable(self.path)
        self.frames, self.samples = 0, 0
        self._container = None

    def _start(self, height: int, width: int) -> None:
        if height % 2 or width % 2:
            raise ValueError(f"yuv420p needs even sides, got {height}×{width}")
        options = {"movflags": "hybrid_fragmented+frag_keyframe+delay_moov", "flush_packets": "1"}
        self._container = av.open(str(self.path), "w", format="mp4", options=options)
        video = self._container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        # No lookahead and no B-frames: what was handed over is in the file within two seconds.
        video.options = {"crf": "16", "preset": "veryfast", "tune": "zerolatency"}
        video.codec_context.gop_size = FRAMES_PER_SECOND
        video.codec_context.thread_count = 1
        self._video, self._audio = video, None
        if self._sound:
            self._audio = self._container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            self._audio.bit_rate = 64_000

    def write(self, frames: UInt8[np.ndarray, "t y x 3"], audio: Block) -> None:
        """Append frames and the sound that belongs to them."""
        with _Faults(self.path):
            if self._container is None:
                self._start(*frames.shape[1:3])
            for pixels in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame.pts, frame.time_base = self.frames, Fraction(1, FRAMES_PER_SECOND)
                self._container.mux(self._video.encode(frame))
                self.frames += 1
            if len(audio) and self._audio is not None:
                samples = np.ascontiguousarray(audio, np.float32)[None]
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                frame.sample_rate = SAMPLE_RATE
                frame.pts, frame.time_base = self.samples, Fraction(1, SAMPLE_RATE)
                self._container.mux(self._audio.encode(frame))
                self.samples += len(audio)

    def close(self) -> None:
        """Flush the encoders and write the index; a second call does nothing."""
        if self._container is None:
            return
        container, self._container = self._container, None
        with _Faults(self.path), container:
            container.mux(self._video.encode(None))
            if self.samples:
                container.mux(self._audio.encode(None))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()


@dataclasses.dataclass(frozen=True)
class _Faults:
    """Turns FFmpeg's faults while writing into one sentence."""

    path: Path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, (av.FFmpegError, OSError)):
            reason = error.strerror or str(error)
            raise InputError(f"Writing {self.path} failed ({reason}): is the disk full?") from error


def read_frames(path: str | os.PathLike) -> Iterator[np.ndarray]:
    """The frames of a video, uint8 [y x 3], one after another.

    Raises:
      InputError: missing, empty, foreign or damaged file, or no video in it.
    """
    path = Path(path)
    container = _open(path, "video file")
    if not container.streams.video:
        container.close()
        raise InputError(f"{path} has no video stream: give a video.")

    def frames():
        with container:
            count = 0
            try:
                for frame in container.decode(video=0):
                    count += 1
                    yield frame.to_ndarray(format="rgb24")
            except (av.FFmpegError, OSError) as error:
                raise InputError(f"{path} is damaged after {count} frames: copy it again.") from error

    return frames()


def write_video(
    path: str | os.PathLike, frames: UInt8[np.ndarray, "t y x 3"], audio: Block | None = None
) -> None:
    """Write a whole clip that is in memory already."""
    with VideoWriter(path, sound=audio is not None) as writer:
        writer.write(frames, np.zeros(0, np.float32) if audio is None else audio)
