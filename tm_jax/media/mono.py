"""Decoded sound of any rate, layout and format, which may change on the way, as 16 kHz mono."""

import av
import numpy as np
from jaxtyping import Float32

from tm_jax.errors import InputError
from tm_jax.rates import LOUDEST, SAMPLE_RATE

RATES = (1_000, 3_000_000)
"""Samples a second that a file of sound may have: anything else is a damaged header."""

Block = Float32[np.ndarray, " s"]


class Mono:
    """Frames in, 16 kHz mono out; the first frame after ``flush`` begins anew.

    Args:
      name: the file's, for sentences.
      codec: the name of its decoder.
    """

    def __init__(self, name: str, codec: str):
        self._name, self._raw, self._seconds = name, codec.startswith("pcm_f"), 0.0
        self._kind, self._resampler, self._matrix = None, None, True

    def push(self, frame: av.AudioFrame) -> list[Block]:
        """What a frame adds.

        Raises:
          InputError: a rate that no sound has, or samples that are no numbers or far beyond full scale.
        """
        kind = (frame.sample_rate, frame.layout.name, frame.layout.nb_channels, frame.format.name)
        done = []
        if kind != self._kind:
            done = self.flush()
            if not RATES[0] <= frame.sample_rate <= RATES[1]:
                raise InputError(
                    f"The header of {self._name} states {frame.sample_rate} samples a second: "
                    "export it again."
                )
            self._kind = kind
        frame.pts = None
        self._seconds += frame.samples / frame.sample_rate
        if frame.layout.nb_channels > 2 and self._matrix:
            try:
                folded = self._fold(frame)
            except (av.FFmpegError, ValueError):
                # FFmpeg knows no place for these channels.
                self._resampler, self._matrix = None, False
            else:
                return done + self._checked(folded)
        return done + self._checked(self._fold(frame))

    def flush(self) -> list[Block]:
        """What is left of the frames so far."""
        left = [] if self._resampler is None else [_mean(piece) for piece in self._resampler.resample(None)]
        self._kind, self._resampler, self._matrix = None, None, True
        return self._checked(left)

    def _checked(self, blocks: list[Block]) -> list[Block]:
        """The same blocks; what a damaged packet made too loud is brought down."""
        for block in blocks:
            peak = np.abs(block).max(initial=0)
            where = f"near {self._seconds:.1f} s: export it again"
            if not np.isfinite(peak):
                raise InputError(
                    f"{self._name} holds samples that are not numbers (NaN or infinity) {where}."
                )
            if peak > LOUDEST and self._raw:
                raise InputError(
                    f"{self._name} holds samples up to {peak:.5g}, where 1 is full scale, {where} as 16 bit, "
                    "or divided by 32768."
                )
        return [np.clip(block, -LOUDEST, LOUDEST) for block in blocks]

    def _fold(self, frame: av.AudioFrame) -> list[Block]:
        if frame.layout.nb_channels > 2 and not self._matrix:
            mono = av.AudioFrame.from_ndarray(_mean(frame)[None], format="fltp", layout="mono")
            mono.sample_rate = frame.sample_rate
            frame = mono
        if self._resampler is None:
            # FFmpeg folds stereo to mono with a gain of 3 dB; a mean keeps the level.
            layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
            self._resampler = av.AudioResampler("fltp", layout, SAMPLE_RATE)
        return [_mean(piece) for piece in self._resampler.resample(frame)]


def _mean(frame: av.AudioFrame) -> Block:
    """The mean of a frame's channels, as numbers of which 1 is full scale."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype.kind == "f":
        return samples.mean(axis=0, dtype=np.float32)
    middle = 128 if samples.dtype.kind == "u" else 0
    return ((samples.mean(axis=0) - middle) / 2.0 ** (8 * samples.itemsize - 1)).astype(np.float32)
