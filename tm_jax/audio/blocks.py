"""Blocks of sound, checked where they enter a stream."""

from typing import Any

import numpy as np
from jaxtyping import Float32

from tm_jax.errors import InputError
from tm_jax.rates import LOUDEST

_REMEDY = "give a one-dimensional NumPy array of 16 kHz mono sound, int16, or floats of which 1 is full scale"


def as_block(given: Any) -> Float32[np.ndarray, "s"]:
    """A block of sound as float32, a copy: int16 is divided by 32768, float32 and float64 stay as they are.

    Raises:
      InputError: anything else, samples that are no numbers, or floats of which 1 is not full scale.
    """
    if not isinstance(given, np.ndarray):
        raise InputError(f"A block of sound is a {type(given).__name__}: {_REMEDY}.")
    if given.dtype.type not in (np.int16, np.float32, np.float64):
        raise InputError(f"A block of sound holds {given.dtype}: {_REMEDY}.")
    if given.ndim != 1:
        raise InputError(f"A block of sound has the shape {given.shape}: {_REMEDY}.")
    if given.dtype.type is np.int16:
        return given.astype(np.float32) / np.float32(32768)
    with np.errstate(over="ignore"):
        block = given.astype(np.float32)
    if not np.isfinite(block).all():
        raise InputError(f"A block of sound holds samples that are not numbers (NaN or infinity): {_REMEDY}.")
    if (peak := np.abs(block).max(initial=0)) > LOUDEST:
        raise InputError(f"A block of sound reaches {peak:.5g}: divide it by 32768, or {_REMEDY}.")
    return block
