"""A bidirectional speech encoder as a streaming front end: a sliding window over the sound (METHOD §4).

Every ``hop`` tokens the encoder runs over a window of its own, and the hop's tokens are kept:

    sound        ……│◄──── past 200 tokens ────►│◄ hop 2 ►│◄ lookahead 4 ►│
    kept                                        █████████
    not used yet                                                          (later sound)

A window is treated as a clip, so that nothing after its end is read.  Until the past is full, the missing
part is left out of every statistic and of attention, so that the first windows are simply shorter clips.

The 80 ms of lookahead are spent here, where the bidirectional encoder needs them, and only here: the
transformer's window ends with its latent frame (``DiTConfig.audio_lookahead`` 0), so that a video waits
for 80 ms of sound in all.

A whole recording is cut into the same windows as a stream, by the same code, and only run in larger
batches: features prepared for training are those that a stream will hear.  What runs the encoder is the
caller's: each engine brings its own.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32

from tm_jax.rates import SAMPLES_PER_TOKEN


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """The sliding window, in tokens of 20 ms."""

    past: int = 200
    """Tokens of sound before the ones that a window gives: 4 s."""
    hop: int = 2
    """Tokens that a window gives.  Latent frames end on even tokens, so 2 delays none of them."""
    lookahead: int = 4
    """Tokens of sound after the ones that a window gives: 80 ms."""
    batch: int = 8
    """Windows that are computed together where so many are at hand."""

    def __post_init__(self):
        if self.past < 0 or self.lookahead < 0 or self.hop < 1 or self.batch < 1:
            raise ValueError(f"{self}: past and lookahead must be at least 0, hop and batch at least 1")

    @property
    def length(self) -> int:
        """Tokens in a window."""
        return self.past + self.hop + self.lookahead


@dataclasses.dataclass(frozen=True)
class WindowState:
    """What a stream keeps: the sound that later windows still need, and where it begins."""

    sound: Float32[np.ndarray, " kept"]
    """Samples from the start of token ``first``."""
    first: int
    """Index of the token with which ``sound`` begins."""
    done: int
    """Tokens given so far."""


class SlidingWindow:
    """A speech encoder behind the interface of ``front_end.AudioFrontEnd``."""

    def __init__(self, encode: Callable, token_width: int, config: WindowConfig = WindowConfig()):
        """Takes what runs the encoder.

        Args:
          encode: from windows of raw sound [b s] and the number of leading tokens of each that hold no
            sound [b] to all tokens of the windows [b a d], a NumPy array.
          token_width: numbers in one token.
        """
        self._encode, self._width, self.config = encode, token_width, config

    @property
    def token_width(self) -> int:
        """Numbers in one token."""
        return self._width

    @property
    def lookahead(self) -> int:
        """Tokens of later sound that a token waits for at most; the last one of a hop waits for the least."""
        return self.config.lookahead + self.config.hop - 1

    def tokens(self, audio: Float[np.ndarray, "s"]) -> Float32[np.ndarray, "l d"]:
        """All tokens of a recording at 16 kHz, ceil(s / 320) of them, silence assumed past its end."""
        count = -(-len(audio) // SAMPLES_PER_TOKEN)
        silence = (count + self.lookahead) * SAMPLES_PER_TOKEN - len(audio)
        return self.push(self.start(), np.pad(audio, (0, silence)))[0][:count]

    def start(self) -> WindowState:
        """The state before the first sample."""
        return WindowState(sound=np.zeros(0, np.float32), first=0, done=0)

    def push(
        self, state: WindowState, samples: Float[np.ndarray, "s"]
    ) -> tuple[Float32[np.ndarray, "l d"], WindowState]:
        """Take any number of samples, return the tokens of the hops that they complete and the next state."""
        c = self.config
        sound = np.concatenate([state.sound, samples.astype(np.float32, copy=False)])
        received = state.first + len(sound) // SAMPLES_PER_TOKEN
        hops = max(0, (received - c.lookahead - state.done) // c.hop)
        starts = state.done + c.hop * np.arange(hops)
        given = [self._compute(sound, state.first, group) for group in self._groups(starts)]
        done = state.done + c.hop * hops
        first = max(0, done - c.past)
        kept = sound[(first - state.first) * SAMPLES_PER_TOKEN :].copy()
        empty = np.zeros((0, self.token_width), np.float32)
        return np.concatenate([empty, *given]), WindowState(sound=kept, first=first, done=done)

    def _groups(self, starts: np.ndarray) -> list[np.ndarray]:
        """Full batches, then single windows: two shapes in all, so that nothing compiles twice."""
        whole = len(starts) // self.config.batch * self.config.batch
        return [*starts[:whole].reshape(-1, self.config.batch), *starts[whole:, None]]

    def _compute(self, sound: np.ndarray, first: int, starts: np.ndarray) -> np.ndarray:
        """The tokens of the hops that begin at the given token indices."""
        c = self.config
        windows = np.zeros((len(starts), c.length * SAMPLES_PER_TOKEN), np.float32)
        skip = np.maximum(0, c.past - starts)
        for window, start, missing in zip(windows, starts, skip, strict=True):
            begin = (start - c.past + missing - first) * SAMPLES_PER_TOKEN
            end = (start + c.hop + c.lookahead - first) * SAMPLES_PER_TOKEN
            window[missing * SAMPLES_PER_TOKEN :] = sound[begin:end]
        kept = self._encode(windows, skip)[:, c.past : c.past + c.hop]
        return kept.reshape(-1, self.token_width)
