"""Who speaks: the character's mode (speaking or listening) for every latent frame.

The paper toggles the mode between turns; here voice activity decides, causally, and stretches set by the
user override it.  The detector is WebRTC's, on 20 ms frames, which are the audio tokens' own grid.
"""

import math
import re

import numpy as np
import webrtcvad
from jaxtyping import Bool, Float32

from tm_jax.models.log_mel import SAMPLE_RATE, SAMPLES_PER_TOKEN
from tm_jax.types import InputError

HANGOVER_TOKENS = 15
ONSET_TOKENS = 2
LISTENING, SPEAKING = 0, 1

Stretch = tuple[float, float]


class VoiceActivity:
    """Streaming voice activity: speech begins after 40 ms of it and ends 0.3 s after the last."""

    def __init__(self, aggressiveness: int = 2):
        self._detector = webrtcvad.Vad(aggressiveness)
        self._rest = np.zeros(0, np.float32)
        self._run, self._since = 0, HANGOVER_TOKENS

    def push(self, samples: Float32[np.ndarray, "s"]) -> Bool[np.ndarray, "l"]:
        """For every token that these samples complete, whether somebody is speaking."""
        sound = np.concatenate([self._rest, samples])
        count = len(sound) // SAMPLES_PER_TOKEN
        pcm = (np.clip(sound[: count * SAMPLES_PER_TOKEN], -1, 1) * 32767).astype("<i2").tobytes()
        self._rest = sound[count * SAMPLES_PER_TOKEN :]
        size = 2 * SAMPLES_PER_TOKEN
        return np.array([self._token(pcm[i * size : (i + 1) * size]) for i in range(count)], bool)

    def _token(self, pcm: bytes) -> bool:
        self._run = self._run + 1 if self._detector.is_speech(pcm, SAMPLE_RATE) else 0
        self._since = 0 if self._run >= ONSET_TOKENS else min(self._since + 1, HANGOVER_TOKENS)
        return self._since < HANGOVER_TOKENS


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
