"""Pixels as bytes and as the numbers that the models see."""

import numpy as np
from jaxtyping import Float, UInt8


def to_signed(frames: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Pixels 0 … 255 → float32 in [−1, 1]."""
    return frames.astype(np.float32) / 127.5 - 1.0


def to_pixels(video) -> UInt8[np.ndarray, "..."]:
    """[−1, 1] → pixels 0 … 255, clamped and rounded."""
    return np.clip(np.asarray(video) * 127.5 + 127.5, 0, 255).round().astype(np.uint8)
