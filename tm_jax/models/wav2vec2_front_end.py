"""wav2vec2 as a streaming front end: a sliding window over the sound (METHOD §4).

Every ``hop`` tokens the encoder runs over a window of its own, and the hop's tokens are kept:

    sound        ……│◄──── past 200 tokens ────►│◄ hop 2 ►│◄ lookahead 4 ►│
    kept                                        █████████
    not used yet                                                          (later sound)

A window is treated as a clip: normalised by itself, with 80 zeros appended, so that nothing after its
end is read.  Until the past is full, the missing part is left out of every statistic and of
attention, so that the first windows are simply shorter clips.

The 80 ms of lookahead are spent here, where the bidirectional encoder needs them, and only here: the
transformer's window ends with its latent frame (``DiTConfig.audio_lookahead`` 0), so that a video waits
for 80 ms of sound in all.

A whole recording is cut into the same windows as a stream, by the same code, and only run in larger
batches: features prepared for training are those that a stream will hear.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from tm_jax.models.wav2vec2 import Wav2Vec2, normalise
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


@flax.struct.dataclass
class StreamState:
    """What a stream keeps: the sound that later windows still need, and where it begins."""

    sound: Float32[np.ndarray, " kept"]
    """Samples from the start of token ``first``."""
    first: int
    """Index of the token with which ``sound`` begins."""
    done: int
    """Tokens given so far."""


@jax.jit
def window_tokens(
    encoder: Wav2Vec2, sound: Float[Array, "b s"], skip: Int[Array, " b"]
) -> Float[Array, "b a d"]:
    """All tokens of windows of raw sound, each normalised by itself; the first ``skip`` hold no sound."""
    prepared = normalise(sound, skip, samples_per_token=encoder.config.samples_per_token)
    return encoder(jnp.pad(prepared, ((0, 0), (0, encoder.config.tail))), skip).astype(jnp.float32)


class Wav2Vec2FrontEnd:
    """The speech encoder behind the interface of `log_mel.AudioFrontEnd`."""

    def __init__(self, encoder: Wav2Vec2, config: WindowConfig = WindowConfig()):
        if encoder.config.samples_per_token != SAMPLES_PER_TOKEN:
            given = encoder.config.samples_per_token
            raise ValueError(
                f"the encoder takes {given} samples a token where {SAMPLES_PER_TOKEN} are needed"
            )
        self.encoder = encoder
        self.config = config

    @property
    def token_width(self) -> int:
        """Numbers in one token."""
        return self.encoder.config.width

    @property
    def lookahead(self) -> int:
        """Tokens of later sound that a token waits for at most; the last one of a hop waits for the least."""
        return self.config.lookahead + self.config.hop - 1

    def tokens(self, audio: Float[np.ndarray, "s"]) -> Float32[np.ndarray, "l d"]:
        """All tokens of a recording at 16 kHz, ceil(s / 320) of them, silence assumed past its end."""
        count = -(-len(audio) // SAMPLES_PER_TOKEN)
        silence = (count + self.lookahead) * SAMPLES_PER_TOKEN - len(audio)
        return self.push(self.start(), np.pad(audio, (0, silence)))[0][:count]

    def start(self) -> StreamState:
        """The state before the first sample."""
        return StreamState(sound=np.zeros(0, np.float32), first=0, done=0)

    def push(
        self, state: StreamState, samples: Float[np.ndarray, "s"]
    ) -> tuple[Float32[np.ndarray, "l d"], StreamState]:
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
        return np.concatenate([empty, *given]), StreamState(sound=kept, first=first, done=done)

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
        tokens = window_tokens(self.encoder, jnp.asarray(windows), jnp.asarray(skip, jnp.int32))
        kept = np.asarray(tokens[:, c.past : c.past + c.hop])
        return kept.reshape(-1, self.token_width)
