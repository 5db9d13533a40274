"""From a stream of sound to what each chunk of video hears (METHOD §4, §7).

A chunk of g latent frames gets the window of audio tokens of each of them, its mode, and the sound that
plays with its video frames.  At 25 fps latent frame 0 is one video frame and every later one four:

    latent j ≥ 1   tokens 8j-6 … 8j+1   = 160 ms,   with `left` more before and `lookahead` after
    chunk 0 of 3   tokens 0 … 17        = 360 ms  = 9 frames
    later chunks   24 tokens            = 480 ms  = 12 frames

Sound is heard as it comes, so that little is left to do when a chunk's last sample is there; but no further
than the next chunk reaches.  The state at the borders of chunks is kept: what was heard of the chunk to come
can be heard again as silence when the mode changes, or be forgotten when the character is interrupted.

Memory is constant: sound and tokens are dropped as soon as no later window can reach them.
"""

import collections
import dataclasses
from typing import Any, Literal

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
class _Border:
    """What the front end had made of the sound where a chunk begins."""

    sample: int
    state: Any
    tokens: int


class _Samples:
    """Sound that waits: blocks are put to one end and any number of samples taken from the other."""

    def __init__(self):
        self._blocks: collections.deque[np.ndarray] = collections.deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, block: np.ndarray) -> None:
        self._blocks.append(block)
        self._count += len(block)

    def put_back(self, block: np.ndarray) -> None:
        self._blocks.appendleft(block)
        self._count += len(block)

    def take(self, count: int) -> np.ndarray:
        """The first samples, at most so many."""
        parts, missing = [], min(count, self._count)
        self._count -= missing
        while missing:
            block = self._blocks.popleft()
            if len(block) > missing:
                self._blocks.appendleft(block[missing:])
            parts.append(block[:missing])
            missing -= len(parts[-1])
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


class AudioChunker:
    """Cuts a stream of sound into the inputs of consecutive chunks."""

    def __init__(
        self,
        front_end: AudioFrontEnd,
        *,
        chunk: int = 3,
        left: int = 8,
        lookahead: int = 0,
        mode: Mode = "auto",
        listen: tuple[Stretch, ...] = (),
    ):
        """Begins before the first sample.

        Args:
          chunk: latent frames a chunk.
          left: tokens of past in a window beside the latent frame's own.
          lookahead: tokens of future in a window.
          mode: auto asks voice activity, speak and listen hold one mode.
          listen: stretches in seconds in which the character listens, whatever is heard.
        """
        self.mode: Mode = mode
        """May be changed at any time: what holds when a chunk is taken holds for the whole chunk."""
        self._front_end, self._chunk, self._left, self._lookahead = front_end, chunk, left, lookahead
        self._listen, self._silent = listen, mode == "listen"
        self._state, self._activity = front_end.start(), VoiceActivity()
        self._tokens = np.zeros((0, front_end.token_width), np.float32)
        self._speaking = np.zeros(0, bool)
        self._base = 0  # number of the first token that is kept
        self._coming = _Samples()  # sound not heard yet
        self._consumed = _Samples()  # sound heard and not passed on
        self._passed, self._position, self._judged = 0, 0, 0  # samples: passed on, heard, asked for voice
        self._borders = collections.deque([_Border(0, self._state, 0)])
        self._index, self._frames = 0, 0
        self._length: int | None = None
        self._resting = False

    @property
    def waiting(self) -> int:
        """Samples that have come and are in no chunk yet."""
        return len(self._coming) + len(self._consumed)

    @property
    def over(self) -> bool:
        """Whether the sound has ended and every chunk of it was taken."""
        return self._length is not None and self._frames_left() <= 0

    def push(self, samples: Float32[np.ndarray, "s"]) -> None:
        """Take any number of samples."""
        self._coming.append(samples)
        self._hear()

    def finish(self) -> None:
        """The end of the sound: what comes after it is silence."""
        self._length = self._passed + self.waiting
        self._hear()

    def interrupt(self) -> None:
        """Drop all sound that is in no chunk yet; the next chunk listens to silence, and is there at once."""
        self._consumed, self._coming = _Samples(), _Samples()
        self._rewind()
        self._activity, self._judged = VoiceActivity(), self._passed
        self._speaking = self._speaking[: self._passed // SAMPLES_PER_TOKEN - self._base]
        silence = self._chunk_end(self._index) - self._passed
        self._coming.append(np.zeros(silence, np.float32))
        if self._length is not None:
            self._length = self._passed + silence
        self._resting = True
        self._hear()

    def ready(self) -> bool:
        """Whether a chunk can be taken."""
        return self._complete() or self._resting or (self._length is not None and self._frames_left() > 0)

    def take(self) -> ChunkAudio:
        """The inputs of the next chunk, which must be ready.

        While listening by mode or by a stretch set by hand the model hears silence, as in its training, and
        the sound itself is passed on.  After the end silence fills the last chunk.
        """
        if self._silent != (self.mode == "listen"):
            self._silent = not self._silent
            self._rewind()
            self._hear()
        padded = not self._complete()
        while not self._complete():
            self._receive(np.zeros(self._step(), np.float32), judge=not self._resting)
        first = self._chunk * self._index
        latents = range(first, first + self._chunk)
        windows = np.stack([self._window(latent) for latent in latents])
        mode = np.array([self._mode(latent) for latent in latents], np.int32)
        frames = end_frame(latents[-1]) - self._frames
        if self._length is not None:
            frames = min(frames, self._frames_left())
        taken = ChunkAudio(self._index, windows, mode, self._pass_on(frames), frames)
        self._index, self._frames, self._resting = self._index + 1, self._frames + frames, False
        self._borders.popleft()
        if padded:
            self._rewind()
        self._forget()
        self._hear()
        return taken

    def _frames_left(self) -> int:
        return -(-self._length // SAMPLES_PER_FRAME) - self._frames

    def _chunk_end(self, index: int) -> int:
        """Samples up to the end of a chunk."""
        return end_frame(self._chunk * (index + 1) - 1) * SAMPLES_PER_FRAME

    def _wanted(self) -> int:
        """Tokens from the beginning that the next chunk reaches."""
        return first_token(self._chunk * (self._index + 1)) + self._lookahead

    def _complete(self) -> bool:
        return self._base + len(self._tokens) >= self._wanted()

    def _step(self) -> int:
        """Samples to hear next: to the next border of chunks, or as far as the next chunk reaches."""
        index = self._index
        while (border := self._chunk_end(index)) <= self._position:
            index += 1
        reach = (self._wanted() + self._front_end.lookahead) * SAMPLES_PER_TOKEN
        return min(border, max(reach, self._position + SAMPLES_PER_TOKEN)) - self._position

    def _hear(self) -> None:
        """Hear what has come, as far as the next chunk reaches; before the end whole tokens only."""
        while not self._complete():
            count = len(self._coming)
            if self._length is None:
                count -= count % SAMPLES_PER_TOKEN
            if not count:
                return
            block = self._coming.take(min(count, self._step()))
            self._consumed.append(block)
            self._receive(block, judge=True)

    def _receive(self, samples: np.ndarray, *, judge: bool) -> None:
        start, stop = self._position, self._position + len(samples)
        audible = np.where(inside(self._listen, start, len(samples), SAMPLE_RATE), np.float32(0), samples)
        if judge and stop > self._judged:
            spoken = self._activity.push(audible[self._judged - start :])
            self._speaking, self._judged = np.concatenate([self._speaking, spoken]), stop
        tokens, self._state = self._front_end.push(
            self._state, np.zeros_like(audible) if self._silent else audible
        )
        self._tokens, self._position = np.concatenate([self._tokens, tokens]), stop
        if stop == self._chunk_end(self._index + len(self._borders) - 1):
            self._borders.append(_Border(stop, self._state, self._base + len(self._tokens)))

    def _rewind(self) -> None:
        """Forget what was heard since the chunk to come began; its sound is still to be heard."""
        border = self._borders[0]
        self._borders = collections.deque([border])
        self._state, self._position = border.state, border.sample
        self._tokens = self._tokens[: border.tokens - self._base]
        self._coming.put_back(self._consumed.take(len(self._consumed)))

    def _window(self, latent: int) -> np.ndarray:
        """Tokens round a latent frame; zeros before the beginning and after the end of the sound."""
        start = TOKENS_PER_LATENT * latent - 6 - self._left
        stop = start + self._left + TOKENS_PER_LATENT + self._lookahead
        end = stop if self._length is None else -(-self._length // SAMPLES_PER_TOKEN)
        window = np.zeros((stop - start, self._tokens.shape[1]), np.float32)
        low, high = max(start, 0), max(min(stop, end), max(start, 0))
        window[low - start : high - start] = self._tokens[low - self._base : high - self._base]
        return window

    def _mode(self, latent: int) -> int:
        start, stop = first_token(latent), first_token(latent + 1)
        middle = (start + stop) / 2 * SAMPLES_PER_TOKEN / SAMPLE_RATE
        by_hand = any(begin <= middle < end for begin, end in self._listen)
        if self._resting or self.mode == "listen" or by_hand:
            return LISTENING
        if self.mode == "speak":
            return SPEAKING
        spoken = self._speaking[start - self._base : stop - self._base].any()
        return SPEAKING if spoken else LISTENING

    def _pass_on(self, frames: int) -> np.ndarray:
        """The sound of the next frames; what is left was heard for the chunk after."""
        sound = self._consumed.take(frames * SAMPLES_PER_FRAME)
        self._passed += len(sound)
        return sound

    def _forget(self) -> None:
        reach = TOKENS_PER_LATENT * self._chunk * self._index - 6 - self._left
        drop = max(0, min(reach, self._borders[0].tokens) - self._base)
        self._tokens, self._speaking = self._tokens[drop:].copy(), self._speaking[drop:].copy()
        self._base += drop
