"""A video file as 25 upright frames a second and 16 kHz mono sound, both from the first frame's time.

Frames are picked by their own time stamps (the nearest to each 40 ms), so files of varying or odd rates
keep their sound in step; sound is put where its time stamps say, with silence before it and in gaps.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import Int16, UInt8

from tm_jax.errors import InputError
from tm_jax.rates import FRAMES_PER_SECOND, SAMPLE_RATE

LONGEST_GAP = 10.0
"""Seconds without a frame that pass as a still picture."""
_STEP = 0.04
"""Seconds by which sound may be off its time stamps before it is put in its place anew."""


class Picture:
    """One decoded frame; its pixels are computed when they are asked for."""

    def __init__(self, frame: av.VideoFrame, pixel_aspect: float):
        self._frame, self._aspect = frame, pixel_aspect
        self._rgb = None

    def rgb(self) -> UInt8[np.ndarray, "y x 3"]:
        """Upright, with square pixels."""
        if self._rgb is None:
            pixels = self._frame.to_ndarray(format="rgb24")
            if abs(self._aspect - 1) > 0.01:
                width = round(pixels.shape[1] * self._aspect)
                pixels = cv2.resize(pixels, (width, pixels.shape[0]), interpolation=cv2.INTER_AREA)
            self._rgb = np.ascontiguousarray(np.rot90(pixels, round(self._frame.rotation / 90) % 4))
        return self._rgb


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        # Playlists inside a media file must not reach for the network.
        container = av.open(str(path), options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is no media file, or it is damaged or cut off: convert or copy it again."
        ) from error
    with container:
        if not container.streams.video:
            raise InputError(f"{path} has no video stream: give a video.")
        yield container


def _promised(container: av.container.InputContainer) -> float | None:
    """Length of the pictures in seconds as the header states it."""
    stream = container.streams.video[0]
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return None


def header_seconds(path: Path) -> float:
    """Length as the file's header states it, 0 where it states none or cannot be read."""
    try:
        with _opened(path) as container:
            return _promised(container) or (container.duration or 0) / av.time_base
    except InputError:
        return 0.0


def pictures(path: Path) -> Iterator[Picture]:
    """The frames at 25 a second, the first one at the file's own first frame.

    Raises:
      InputError: no media, no video in it, damaged or cut off (after all frames before the fault), or a gap
        of more than 10 s.
    """
    with _opened(path) as container:
        promised = _promised(container)
        last, last_time, start, end, count = None, 0.0, 0.0, 0.0, 0
        for frame, time, seconds, aspect in _timed(path, container):
            if last is None:
                start = time
            else:
                if time - end > LONGEST_GAP:
                    raise InputError(
                        f"{path} has no picture from {end - start:.1f} s to {time - start:.1f} s: "
                        "cut it there."
                    )
                border = (last_time + time) / 2 - start
                while count / FRAMES_PER_SECOND < border - 1e-6:
                    yield last
                    count += 1
            last, last_time, end = Picture(frame, aspect), time, time + seconds
        if last is None:
            raise InputError(f"{path} has no readable picture: convert or copy it again.")
        while (count + 0.5) / FRAMES_PER_SECOND < end - start + 1e-6:
            yield last
            count += 1
        if promised and end - start < 0.95 * promised - 0.5:
            raise InputError(
                f"{path} is cut off: its header promises {promised:.1f} s and {end - start:.1f} s are there; "
                "copy it again."
            )


def _timed(
    path: Path, container: av.container.InputContainer
) -> Iterator[tuple[av.VideoFrame, float, float, float]]:
    """Decoded frames with time, duration and pixel aspect; frames out of order are left out."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    usual = float(1 / stream.average_rate) if stream.average_rate else 1 / FRAMES_PER_SECOND
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    expected, seen = None, 0
    try:
        for frame in container.decode(stream):
            seconds = float(frame.duration * frame.time_base) if frame.duration else usual
            time = expected if frame.time is None else frame.time
            time = 0.0 if time is None else time
            if expected is not None and time < expected - 2 * seconds - _STEP:
                continue
            expected, seen = time + seconds, seen + 1
            yield frame, time, seconds, aspect
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path} is damaged after {seen} pictures: copy or convert it again.") from error


def sound(path: Path) -> Int16[np.ndarray, " s"]:
    """16 kHz mono from the time of the first picture on; empty where a video has no sound.

    Held whole as 16 bit: 115 MB an hour.

    Raises:
      InputError: no media, no video in it, or damaged sound.
    """
    with _opened(path) as container:
        if not container.streams.audio:
            return np.zeros(0, np.int16)
        first = next((time for _, time, *_ in _timed(path, container)), 0.0)
    with _opened(path) as container:
        try:
            parts = list(_sound_parts(container, first))
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{path} has damaged sound: copy or convert it again.") from error
    length = max((place + len(part) for place, part in parts), default=0)
    whole = np.zeros(max(length, 0), np.int16)
    for place, part in parts:
        part = part[max(0, -place) :]
        whole[max(0, place) : max(0, place) + len(part)] = part
    return whole


def _sound_parts(container: av.container.InputContainer, first: float) -> Iterator[tuple[int, np.ndarray]]:
    """Unbroken stretches of sound with the sample at which each begins."""
    place, expected, resampler, blocks = 0, 0.0, None, []
    for frame in container.decode(container.streams.audio[0]):
        time = expected if frame.time is None else frame.time
        if resampler is None or abs(time - expected) > _STEP:
            if resampler is not None:
                yield place, np.concatenate([*blocks, *_mono(resampler, None)])
            # FFmpeg folds stereo to mono with a gain of 3 dB; a mean keeps the level.
            layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
            resampler, blocks = av.AudioResampler("fltp", layout, SAMPLE_RATE), []
            place = round((time - first) * SAMPLE_RATE)
        expected = time + frame.samples / frame.sample_rate
        frame.pts = None
        blocks += _mono(resampler, frame)
    if resampler is not None:
        yield place, np.concatenate([*blocks, *_mono(resampler, None)])


def _mono(resampler: av.AudioResampler, frame: av.AudioFrame | None) -> list[np.ndarray]:
    folded = [piece.to_ndarray().mean(axis=0) for piece in resampler.resample(frame)]
    return [np.clip(np.nan_to_num(piece) * 32768, -32768, 32767).astype(np.int16) for piece in folded]
