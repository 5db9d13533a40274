"""Stretches in which the character listens, set by hand.

The paper toggles the mode between turns; here voice activity decides (`audio.voice_activity`), and
stretches set by the user override it.
"""

import math
import re

import numpy as np
from jaxtyping import Bool

from tm_jax.errors import InputError

Stretch = tuple[float, float]

_STRETCH = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*-\s*(\d+(?:\.\d*)?|\.\d+)?\s*")


def parse_listen(text: str) -> tuple[Stretch, ...]:
    """Stretches of listening from ``3.0-5.0,8-9`` (seconds); ``8-`` lasts to the end.  Sorted and merged.

    Raises:
      InputError: anything else.
    """
    stretches: list[Stretch] = []
    for part in text.split(","):
        match = _STRETCH.fullmatch(part)
        if match is None:
            raise InputError(
                f"--listen has {part.strip()!r}, which is no stretch in seconds: write it like 3.0-5.0,8-9."
            )
        start, end = float(match[1]), float(match[2]) if match[2] else math.inf
        if end <= start:
            raise InputError(f"--listen has {part.strip()!r}, which ends before it begins: swap the numbers.")
        stretches.append((start, end))
    merged: list[Stretch] = []
    for start, end in sorted(stretches):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def inside(
    stretches: tuple[Stretch, ...], start: int, count: int, per_second: int
) -> Bool[np.ndarray, "count"]:
    """Which of the points start … start+count-1, of which there are so many a second, lie in a stretch."""
    seconds = (np.arange(start, start + count) + 0.5) / per_second
    result = np.zeros(count, bool)
    for begin, end in stretches:
        result |= (seconds >= begin) & (seconds < end)
    return result
