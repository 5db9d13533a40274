"""Video in and out, through PyAV.

Video goes into an mp4 that plays up to its last second whatever ends the program: it is written in
fragments of one second, and a file closed in the ordinary way gets an ordinary index as well.  Until then it
lies beside its name, as ``talk.part-….mp4`` for talk.mp4: what has the name is whole, and two runs with one
name do not mix.
"""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float32, UInt8

from tm_jax.errors import InputError
from tm_jax.media.files import Beside, check_writable, media_url, open_media, shown
from tm_jax.rates import FRAMES_PER_SECOND, SAMPLE_RATE

SUFFIXES = (".mp4", ".m4v", ".mov")

Block = Float32[np.ndarray, "s"]


class VideoWriter:
    """Writes frames and their sound to an mp4 (H.264 yuv420p at 25 fps, AAC mono at 16 kHz).

    The file is begun when the first frames come, and gets its name when it is closed.  Use it as a context:
    leaving it, by Ctrl-C too, finishes the file.  Where writing fails an old file of that name stays.

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
        self._container = self._beside = None

    def _start(self, height: int, width: int) -> None:
        if height % 2 or width % 2:
            raise ValueError(f"yuv420p needs even sides, got {height}×{width}")
        options = {"movflags": "hybrid_fragmented+frag_keyframe+delay_moov", "flush_packets": "1"}
        self._beside = Beside(self.path)
        self._container = av.open(media_url(self._beside.place), "w", format="mp4", options=options)
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
        with self._faults():
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
        with self._faults():
            with container:
                container.mux(self._video.encode(None))
                if self.samples:
                    container.mux(self._audio.encode(None))
            self._beside.publish()

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turns FFmpeg's faults while writing into one sentence, which names what plays nevertheless."""
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            self._container = None
            beside, kept = self._beside, ""
            if beside is not None and beside.place != beside.target:
                if self.frames > FRAMES_PER_SECOND and beside.place.exists():
                    kept = f"; what was made until then is in {shown(beside.place)}"
                else:
                    beside.discard()
            reason = error.strerror or str(error)
            raise InputError(
                f"Writing {shown(self.path)} failed ({reason}){kept}: is the disk full?"
            ) from error

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_frames(path: str | os.PathLike) -> Iterator[np.ndarray]:
    """The frames of a video, uint8 [y x 3], one after another.

    Raises:
      InputError: missing, empty, foreign or damaged file, or no video in it.
    """
    path = Path(path)
    container = open_media(path, "video file")
    if not container.streams.video:
        container.close()
        raise InputError(f"{shown(path)} has no video stream: give a video.")

    def frames():
        with container:
            count = 0
            try:
                for frame in container.decode(video=0):
                    count += 1
                    yield frame.to_ndarray(format="rgb24")
            except (av.FFmpegError, OSError) as error:
                raise InputError(f"{shown(path)} is damaged after {count} frames: copy it again.") from error

    return frames()


def write_video(
    path: str | os.PathLike, frames: UInt8[np.ndarray, "t y x 3"], audio: Block | None = None
) -> None:
    """Write a whole clip that is in memory already."""
    with VideoWriter(path, sound=audio is not None) as writer:
        writer.write(frames, np.zeros(0, np.float32) if audio is None else audio)
