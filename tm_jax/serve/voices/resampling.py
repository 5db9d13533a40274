"""Sound from one rate to another, block by block, without a seam."""

import av
import numpy as np
from jaxtyping import Float32, Int16


class Resampler:
    """A stream of mono int16 or float32 samples in, float32 samples of another rate out."""

    def __init__(self, source: int, target: int):
        self._source = source
        self._resampler = av.AudioResampler("flt", "mono", target)

    def push(self, samples: Float32[np.ndarray, "s"] | Int16[np.ndarray, "s"]) -> Float32[np.ndarray, "r"]:
        """The samples that these complete; a few wait for those to come."""
        if not len(samples):
            return np.zeros(0, np.float32)
        form = "s16" if samples.dtype == np.int16 else "flt"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], format=form, layout="mono")
        frame.sample_rate = self._source
        parts = [piece.to_ndarray()[0] for piece in self._resampler.resample(frame)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def to_pcm(samples: Float32[np.ndarray, "s"]) -> bytes:
    """Little-endian 16-bit samples."""
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
