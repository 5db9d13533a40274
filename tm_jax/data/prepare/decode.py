"""A video file as 25 upright frames a second and 16 kHz mono sound, both from the first frame's time.

Frames are picked by their own time stamps (the nearest to each 40 ms), so files of varying or odd rates
keep their sound in step; sound is put where its time stamps say, with silence before it and in gaps.  Where
the file's clock jumps a new part begins: its frames follow those of the part before, its sound theirs.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import Int16, UInt8

from tm_jax.data.prepare.clocks import Clocks, read_clocks
from tm_jax.errors import InputError
from tm_jax.media.decoding import Tally, decoded, decoder
from tm_jax.media.files import open_media, shown
from tm_jax.media.losses import Expectation
from tm_jax.media.mono import Mono
from tm_jax.media.orientation import display_matrix, upright
from tm_jax.rates import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME

LONGEST_GAP = 10.0
"""Seconds without a frame that pass as a still picture."""
_STEP = 0.04
"""Seconds by which sound may be off its time stamps before it is put in its place anew."""
_GAP = 0.1
"""Seconds without sound between two packets that count as missing."""


class Picture:
    """One decoded frame; its pixels are computed when they are asked for."""

    def __init__(self, frame: av.VideoFrame, pixel_aspect: float, part: int = 0, began: float = 0.0):
        self._frame, self._aspect = frame, pixel_aspect
        self._rgb = None
        self.part, self.began = part, began
        """The number of its part, and the time of that part's first frame."""

    def rgb(self) -> UInt8[np.ndarray, "y x 3"]:
        """Upright, with square pixels."""
        if self._rgb is None:
            pixels = self._frame.to_ndarray(format="rgb24")
            if abs(self._aspect - 1) > 0.01:
                width = max(1, round(pixels.shape[1] * self._aspect))
                pixels = cv2.resize(pixels, (width, pixels.shape[0]), interpolation=cv2.INTER_AREA)
            self._rgb = upright(pixels, display_matrix(self._frame))
        return self._rgb


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a video with one clock."""

    frames: int
    """Its length at 25 a second."""
    began: float
    """Time of its first frame, in seconds of its clock."""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    with open_media(path, "video") as container:
        if not container.streams.video:
            raise InputError(f"{shown(path)} has no video stream: give a video.")
        decoder(container.streams.video[0], shown(path))
        yield container


def header_seconds(path: Path) -> float:
    """Length as the file's header states it, 0 where it states none.

    Raises:
      InputError: no media, or no video in it.
    """
    with _opened(path) as container:
        return Expectation(path, container, container.streams.video[0]).seconds or 0.0


def _clocks(path: Path) -> Clocks:
    with _opened(path) as container:
        return read_clocks(path, container)


def pictures(path: Path) -> Iterator[Picture]:
    """The frames at 25 a second, the first one of each part at the file's own first frame there.

    Raises:
      InputError: no media, no video in it, damaged or cut off (after all frames before the fault), or a gap
        of more than 10 s.
    """
    restarts = _clocks(path).pictures
    with _opened(path) as container:
        expected, tally = Expectation(path, container, container.streams.video[0]), Tally()
        lengths = []
        timed = _timed(path, container, restarts, tally)
        for part, frames in itertools.groupby(timed, lambda frame: frame[0]):
            lengths.append((yield from _paced(path, part, frames)))
        if not lengths:
            raise InputError(f"{shown(path)} has no readable picture: convert or copy it again.")
        expected.check_end(shown(path), sum(lengths), tally)


def _paced(path: Path, part: int, frames: Iterator[tuple]) -> Iterator[Picture]:
    """The frames of one part at 25 a second; returns its length in seconds."""
    last, last_time, start, end, count = None, 0.0, 0.0, 0.0, 0
    for _, frame, time, seconds, aspect in frames:
        if last is None:
            start = time
        else:
            if time - end > LONGEST_GAP:
                raise InputError(
                    f"{shown(path)} has no picture from {end - start:.1f} s to {time - start:.1f} s: "
                    "cut it there."
                )
            border = (last_time + time) / 2 - start
            while count / FRAMES_PER_SECOND < border - 1e-6:
                yield last
                count += 1
        last, last_time, end = Picture(frame, aspect, part, start), time, time + seconds
    while (count + 0.5) / FRAMES_PER_SECOND < end - start + 1e-6:
        yield last
        count += 1
    return end - start


def _timed(
    path: Path, container: av.container.InputContainer, restarts: tuple[int, ...], tally: Tally
) -> Iterator[tuple[int, av.VideoFrame, float, float, float]]:
    """Decoded frames with part, time, duration and pixel aspect; frames out of order are left out."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    usual = float(1 / stream.average_rate) if stream.average_rate else 1 / FRAMES_PER_SECOND
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    expected, seen, now, refused = None, 0, 0, 0
    damaged = lambda: InputError(f"{shown(path)} is damaged after {seen} pictures: copy or convert it again.")
    try:
        for part, frame in decoded(container, stream, tally, restarts):
            if part != now:
                expected, now, refused = None, part, tally.refused
            # Before its first whole picture a recording may hold the rest of an earlier one.
            if tally.refused > refused and expected is not None:
                raise damaged()
            refused = tally.refused
            seconds = float(frame.duration * frame.time_base) if frame.duration else usual
            time = expected if frame.time is None else frame.time
            time = 0.0 if time is None else time
            if expected is not None and time < expected - 2 * seconds - _STEP:
                continue
            expected, seen = time + seconds, seen + 1
            yield part, frame, time, seconds, aspect
    except (av.FFmpegError, OSError) as error:
        raise damaged() from error
    if tally.refused > refused and expected is not None:
        raise damaged()


def sound(path: Path, parts: Sequence[Part]) -> tuple[Int16[np.ndarray, " s"], list[tuple[int, int]]]:
    """16 kHz mono as long as the pictures, and where in it sound is missing.

    Held whole as 16 bit: 115 MB an hour.

    Args:
      parts: those of the pictures.

    Returns:
      The samples, none where a video has no sound, and (first, last) samples of what is missing between two
      packets.

    Raises:
      InputError: no media, no video in it, or sound that can be read no further.
    """
    restarts = _clocks(path).sound
    begins = np.cumsum([0, *(SAMPLES_PER_FRAME * part.frames for part in parts)])
    with _opened(path) as container:
        if not container.streams.audio:
            return np.zeros(0, np.int16), []
        decoder(container.streams.audio[0], shown(path))
        expected = Expectation(path, container, container.streams.audio[0])
        whole, missing, before, decoded = np.zeros(int(begins[-1]), np.int16), [], {}, 0
        try:
            for number, time, samples in _stretches(path, container, restarts):
                decoded += len(samples)
                if number >= len(parts):
                    break
                low, high = int(begins[number]), int(begins[number + 1])
                place = low + round((time - parts[number].began) * SAMPLE_RATE)
                first, last = max(place, low), min(place + len(samples), high)
                if last > first:
                    whole[first:last] = samples[first - place : last - place]
                gap = (max(low, before.get(number, first)), min(first, high))
                if gap[1] - gap[0] > _GAP * SAMPLE_RATE:
                    missing.append(gap)
                before[number] = max(place + len(samples), before.get(number, low))
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{shown(path)} has damaged sound: copy or convert it again.") from error
        expected.check_count(shown(path), decoded / SAMPLE_RATE)
    return whole, missing


def _stretches(
    path: Path, container: av.container.InputContainer, restarts: tuple[int, ...]
) -> Iterator[tuple[int, float, np.ndarray]]:
    """Unbroken stretches of sound with the part and the time at which each begins."""
    stream, now, start, expected, blocks = container.streams.audio[0], 0, 0.0, None, []
    mono = Mono(shown(path), stream.codec_context.name)
    for part, frame in decoded(container, stream, Tally(), restarts):
        time = frame.time
        if time is None:
            time = start if expected is None else expected
        if expected is None or part != now or abs(time - expected) > _STEP:
            if expected is not None:
                yield now, start, _whole([*blocks, *mono.flush()])
            blocks, start, now = [], time, part
        expected = time + frame.samples / frame.sample_rate
        blocks += mono.push(frame)
    if expected is not None:
        yield now, start, _whole([*blocks, *mono.flush()])


def _whole(blocks: list[np.ndarray]) -> Int16[np.ndarray, " s"]:
    """Float blocks as one stretch of 16-bit samples."""
    joined = np.concatenate([np.zeros(0, np.float32), *blocks])
    return np.clip(joined * 32768, -32768, 32767).astype(np.int16)
