"""From a stream of sound to what each chunk of video hears (METHOD §4, §7).

A chunk of g latent frames gets the window of audio tokens of each of them, its mode, and the sound that
plays with its video frames.  At 25 fps latent frame 0 is one video frame and every later one four:

    latent j ≥ 1   tokens 8j-6 … 8j+1   = 160 ms,   with `left` more before and `lookahead` after
    chunk 0 of 3   tokens 0 … 17        = 360 ms  = 9 frames
    later chunks   24 tokens            = 480 ms  = 12 frames

Memory is constant: sound and tokens are dropped as soon as no later window can reach them.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.audio.listening import Stretch, inside
from tm_jax.audio.voice_activity import LISTENING, SPEAKING, VoiceActivity
from tm_jax.rates import SAMPLE_RATE, SAMPLES_PER_FRAME, SAMPLES_PER_TOKEN, TOKENS_PER_LATENT

Mode = Literal["auto", "speak", "listen"]


@dataclasses.dataclass(frozen=True)
class ChunkAudio:
    """What one chunk of g latent frames hears."""

    index: int
    """Number of the chunk."""
    windows: Float32[np.ndarray, "g a d"]
    """Audio tokens of each latent frame, a = left + 8 + lookahead."""
    mode: Int[np.ndarray, "g"]
    """0 listening, 1 speaking."""
    samples: Float32[np.ndarray, "s"]
    """Sound that plays with the chunk's video frames; the last chunk's may be shorter."""
    frames: int
    """Video frames of the chunk that belong to the sound; the rest of the last chunk is to be dropped."""


def first_token(latent: int) -> int:
    """The first token that latent frame `latent` covers."""
    return max(0, TOKENS_PER_LATENT * latent - 6)


def end_frame(latent: int) -> int:
    """Video frames up to and with latent frame `latent`."""
    return 1 + 4 * latent


@dataclasses.dataclass(frozen=True)
class LiveAudio:
    """Cuts a stream of sound into the inputs of consecutive chunks."""

    front_end: AudioFrontEnd
    """Makes tokens of sound."""
    chunk: int = 3
    """Latent frames a chunk."""
    left: int = 8
    """Tokens of past in a window beside the latent frame's own."""
    lookahead: int = 0
    """Tokens of future in a window."""
    mode: Mode = "auto"
    """auto asks voice activity, speak and listen hold one mode."""
    listen: tuple[Stretch, ...] = ()
    """Stretches in seconds in which the character listens, whatever is heard."""

    def chunks(self, blocks: Iterable[np.ndarray]) -> Iterator[ChunkAudio]:
        """The inputs of chunk after chunk, each as soon as the sound for it is there.

        In listening stretches set by hand the model hears silence, as in its training, while the sound
        itself is passed on.  After the end silence fills the last chunk.
        """
        stream = _Stream(self)
        for block in blocks:
            stream.push(np.asarray(block, np.float32))
            while stream.ready():
                yield stream.take()
        stream.finish()
        while stream.frames_left():
            yield stream.take()


class _Stream:
    """The moving part: buffers from the first token and sample that a later chunk can reach."""

    def __init__(self, settings: LiveAudio):
        self.settings = settings
        self.front_state = settings.front_end.start()
        self.activity = VoiceActivity()
        self.tokens = np.zeros((0, settings.front_end.token_width), np.float32)
        self.speaking = np.zeros(0, bool)
        self.base = 0  # number of the first token that is kept
        self.pending: list[np.ndarray] = []  # sound not yet passed on
        self.received, self.passed = 0, 0  # samples
        self.index, self.frames = 0, 0
        self.ended = False

    def push(self, samples: np.ndarray) -> None:
        self.pending.append(samples)
        self._receive(samples)

    def _receive(self, samples: np.ndarray) -> None:
        settings = self.settings
        silenced_here = inside(settings.listen, self.received, len(samples), SAMPLE_RATE)
        silenced = np.where(silenced_here | (settings.mode == "listen"), np.float32(0), samples)
        self.received += len(samples)
        tokens, self.front_state = settings.front_end.push(self.front_state, silenced)
        self.tokens = np.concatenate([self.tokens, tokens])
        self.speaking = np.concatenate([self.speaking, self.activity.push(silenced)])

    def _wanted(self) -> int:
        """Tokens from the beginning that the next chunk reaches."""
        last = self.settings.chunk * (self.index + 1) - 1
        return first_token(last + 1) + self.settings.lookahead

    def ready(self) -> bool:
        return min(len(self.tokens), len(self.speaking)) + self.base >= self._wanted()

    def finish(self) -> None:
        """The end of the sound: what comes after it is silence."""
        self.ended, self.length = True, self.received

    def frames_left(self) -> int:
        return -(-self.length // SAMPLES_PER_FRAME) - self.frames

    def take(self) -> ChunkAudio:
        if self.ended:
            while not self.ready():
                self._receive(np.zeros(SAMPLES_PER_TOKEN * TOKENS_PER_LATENT, np.float32))
        settings, first = self.settings, self.settings.chunk * self.index
        latents = range(first, first + settings.chunk)
        windows = np.stack([self._window(latent) for latent in latents])
        mode = np.array([self._mode(latent) for latent in latents], np.int32)
        frames = end_frame(latents[-1]) - self.frames
        if self.ended:
            frames = min(frames, self.frames_left())
        self.index, self.frames = self.index + 1, self.frames + frames
        samples = self._pass_on()
        self._forget()
        return ChunkAudio(self.index - 1, windows, mode, samples, frames)

    def _window(self, latent: int) -> np.ndarray:
        """Tokens round a latent frame; zeros before the beginning and after the end of the sound."""
        settings = self.settings
        start = TOKENS_PER_LATENT * latent - 6 - settings.left
        stop = start + settings.left + TOKENS_PER_LATENT + settings.lookahead
        end = -(-self.length // SAMPLES_PER_TOKEN) if self.ended else stop
        window = np.zeros((stop - start, self.tokens.shape[1]), np.float32)
        low, high = max(start, 0), max(min(stop, end), max(start, 0))
        window[low - start : high - start] = self.tokens[low - self.base : high - self.base]
        return window

    def _mode(self, latent: int) -> int:
        settings = self.settings
        start, stop = first_token(latent), first_token(latent + 1)
        seconds = SAMPLES_PER_TOKEN / SAMPLE_RATE
        middle = (start + stop) / 2 * seconds
        if settings.mode == "listen" or any(begin <= middle < end for begin, end in settings.listen):
            return LISTENING
        if settings.mode == "speak":
            return SPEAKING
        spoken = self.speaking[start - self.base : stop - self.base].any()
        return SPEAKING if spoken else LISTENING

    def _pass_on(self) -> np.ndarray:
        sound = np.concatenate(self.pending) if self.pending else np.zeros(0, np.float32)
        count = self.frames * SAMPLES_PER_FRAME - self.passed
        self.pending = [sound[count:]]
        self.passed += min(count, len(sound))
        return sound[:count]

    def _forget(self) -> None:
        reach = TOKENS_PER_LATENT * self.settings.chunk * self.index - 6 - self.settings.left
        drop = max(0, reach - self.base)
        self.tokens, self.speaking = self.tokens[drop:].copy(), self.speaking[drop:].copy()
        self.base += drop
