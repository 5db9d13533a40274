"""A causal network over log-mel as a streaming front end, such as the viseme encoder (METHOD §4).

It adds no latency: token i hears the log-mel tokens i - past … i.  What runs the network is the caller's:
each engine brings its own.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32

from tm_jax.audio.log_mel import LogMel


@dataclasses.dataclass(frozen=True)
class MelState:
    """What a stream keeps: the log-mel front end's state and the tokens that later ones still hear."""

    sound: Float32[np.ndarray, " kept"]
    mel: Float32[np.ndarray, "past mel"]


class MelNetwork:
    """The network behind the interface of ``front_end.AudioFrontEnd``."""

    BLOCK = 24
    """Tokens computed at once, whatever is pushed, so that nothing compiles twice: a chunk of 3 latents."""

    def __init__(self, encode: Callable, *, inputs: int, past: int, token_width: int):
        """Takes what runs the network.

        Args:
          encode: from log-mel tokens [past + BLOCK, mel] to the last BLOCK tokens [BLOCK, d], a NumPy array.
          inputs: numbers in a log-mel token that the network reads.
          past: earlier tokens that a token hears.
          token_width: numbers in one token.
        """
        self._encode, self.past, self._width, self.mel = encode, past, token_width, LogMel()
        if inputs != self.mel.token_width:
            raise ValueError(
                f"the viseme encoder reads tokens of {inputs} numbers where log-mel gives "
                f"{self.mel.token_width}"
            )

    @property
    def token_width(self) -> int:
        """Numbers in one token."""
        return self._width

    @property
    def lookahead(self) -> int:
        """No token waits for later sound."""
        return 0

    def tokens(self, audio: Float[np.ndarray, "s"]) -> Float32[np.ndarray, "l d"]:
        """All tokens of a recording at 16 kHz, ceil(s / 320) of them, silence assumed past its end."""
        silence = self.start()
        return self._tokens(np.concatenate([silence.mel, self.mel.tokens(audio)]))

    def start(self) -> MelState:
        """Silence before the first sample, which is zeros to log-mel."""
        mel = np.zeros((self.past, self.mel.token_width), np.float32)
        return MelState(sound=self.mel.start(), mel=mel)

    def push(
        self, state: MelState, samples: Float[np.ndarray, "s"]
    ) -> tuple[Float32[np.ndarray, "l d"], MelState]:
        """Take any number of samples (none too), return the tokens they complete and the next state."""
        mel, sound = self.mel.push(state.sound, samples)
        mel = np.concatenate([state.mel, mel])
        kept = mel[len(mel) - self.past :].copy()
        return self._tokens(mel), MelState(sound=sound, mel=kept)

    def _tokens(self, mel: Float32[np.ndarray, "l mel"]) -> Float32[np.ndarray, "l_out d"]:
        count = len(mel) - self.past
        padded = np.pad(mel, ((0, -count % self.BLOCK), (0, 0)))
        starts = range(0, count, self.BLOCK)
        parts = [self._encode(padded[start : start + self.past + self.BLOCK]) for start in starts]
        return np.concatenate([np.zeros((0, self.token_width), np.float32), *parts])[:count]
