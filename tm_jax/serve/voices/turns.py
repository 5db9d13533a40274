"""Whose turn it is, from the user's sound alone: when an utterance begins, and what it was when it ends.

For voices that run here; services that hear by themselves (`realtime`) tell it themselves.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32

from tm_jax.audio.voice_activity import VoiceActivity
from tm_jax.rates import SAMPLE_RATE, SAMPLES_PER_TOKEN


@dataclasses.dataclass(frozen=True)
class TurnConfig:
    """How turns are told apart."""

    shortest: float = 0.2
    """Seconds of voice that make an utterance; less is a cough."""
    pause: float = 0.35
    """Seconds without voice that end an utterance."""
    longest: float = 30.0
    """Seconds after which an utterance is taken as it is."""
    before: float = 0.1
    """Seconds before the first voice that belong to the utterance: its first consonant."""


@dataclasses.dataclass(frozen=True)
class Started:
    """The user has begun to talk."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """The user has finished."""

    utterance: Float32[np.ndarray, "s"]
    """All that was said, 16 kHz mono."""


class Turns:
    """Takes the user's sound in blocks of any length."""

    def __init__(self, config: TurnConfig = TurnConfig()):
        self.config = config
        self._activity = VoiceActivity(hangover=1)
        self._rest = np.zeros(0, np.float32)
        self._kept: list[np.ndarray] = []  # tokens of sound: of the utterance, or the moments before one
        self._voiced = self._silent = 0  # tokens
        self._started = False

    def push(self, samples: Float32[np.ndarray, "s"]) -> list[Started | Ended]:
        """What these samples tell."""
        sound = np.concatenate([self._rest, samples])
        count = len(sound) // SAMPLES_PER_TOKEN
        self._rest = sound[count * SAMPLES_PER_TOKEN :]
        speaking = self._activity.push(samples)
        tokens = sound[: count * SAMPLES_PER_TOKEN].reshape(count, SAMPLES_PER_TOKEN)
        found: list[Started | Ended] = []
        for token, voiced in zip(tokens, speaking, strict=True):
            found += self._token(token, bool(voiced))
        return found

    def _token(self, token: np.ndarray, voiced: bool) -> list[Started | Ended]:
        config, tokens = self.config, lambda seconds: round(seconds * SAMPLE_RATE / SAMPLES_PER_TOKEN)
        self._kept.append(token)
        self._voiced, self._silent = (self._voiced + 1, 0) if voiced else (self._voiced, self._silent + 1)
        if self._started:
            if self._silent >= tokens(config.pause) or len(self._kept) >= tokens(config.longest):
                utterance = np.concatenate(self._kept)
                self._kept, self._voiced, self._started = [], 0, False
                return [Ended(utterance)]
            return []
        if self._voiced >= tokens(config.shortest):
            self._started = True
            return [Started()]
        if not voiced:
            self._voiced = 0
            self._kept = self._kept[-tokens(config.before) :]
        return []
