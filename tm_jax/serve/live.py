"""A session under a clock: video that never waits for sound, and sound that never waits for video.

A stream of the engine makes video of whatever sound it is given, as fast as it can.  A call needs the
opposite: 25 frames every second, whether somebody speaks or not.  Here a feeder decides, one chunk at a time
and as late as the engine's own speed allows, what the next chunk hears: the speech that waits, filled up
with silence.  Frames and their sound leave together, one `tick` at a time.

    say ─► speech that waits ─► feeder ─► session ─► frames + sound that wait ─► tick, 25 a second
                                  ▲  feeds when fewer frames are on their way than the engine needs time for

When the machine cannot keep up, ticks find nothing: the last frame is shown again, and the delay of what is
being said grows.  Once it has grown by a chunk, one chunk of speech is played beside a still frame and is not
given to the engine: the picture skips, the delay is gone, and both are counted.
"""

import collections
import dataclasses
import math
import threading
import time

import numpy as np
from jaxtyping import Float32, UInt8

from tm_jax.audio.blocks import as_block
from tm_jax.rates import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME, SAMPLES_PER_TOKEN
from tm_jax.streaming.engine import StreamEngine
from tm_jax.streaming.inbox import SessionClosed
from tm_jax.streaming.reference import Reference

MARGIN = 1
"""Frames beside the engine's own time that are kept ahead."""
MOST_AHEAD = 24
"""Frames that are on their way at most: two chunks of 3 latents, one in each stage."""


@dataclasses.dataclass(frozen=True)
class Tick:
    """One frame of a call, and the sound that plays with it."""

    frame: UInt8[np.ndarray, "y x 3"]
    """What is shown."""
    samples: Float32[np.ndarray, "640"]
    """40 ms of 16 kHz sound."""
    speech: int
    """How many of the samples are of what was said."""
    fresh: bool
    """False for a frame that is shown again because none was there."""


@dataclasses.dataclass
class LiveCounts:
    """What happened in a call."""

    ticks: int = 0
    """Frames sent."""
    stalls: int = 0
    """Ticks for which no new frame was there."""
    skipped_chunks: int = 0
    """Chunks of speech that were played beside a still frame."""
    chunks: int = 0
    """Chunks that the engine made."""


@dataclasses.dataclass
class _Waiting:
    """Frames that are on their way: in the engine, or still frames beside speech that skips it."""

    frames: int
    speech: int
    still: np.ndarray | None = None


class LiveSession:
    """One character in a call; ``tick`` is to be called 25 times a second."""

    def __init__(self, engine: StreamEngine, reference: Reference, picture: np.ndarray, *, seed: int = 0):
        """Begins at once, listening.

        Args:
          reference: what the engine made of the picture.
          picture: uint8 [y x 3]; shown until the first frame is there.
        """
        self.counts = LiveCounts()
        self._chunk = engine.rollout.chunk
        self._session = engine.session(reference, seed=seed)
        backend = engine.backend
        # A chunk is denoised when the sound that it looks ahead to is there, too.
        self._ahead = SAMPLES_PER_TOKEN * (backend.audio_lookahead + backend.front_end.lookahead)
        self._changed = threading.Condition()
        self._speech: collections.deque[np.ndarray] = collections.deque()
        self._speech_length = 0
        self._order: collections.deque[_Waiting] = collections.deque()
        self._ready: collections.deque[Tick] = collections.deque()
        self._last = picture
        self._fed, self._index = 0, -1  # chunks fed, and the one that came last
        self._looked_ahead = False
        self._late = 0  # ticks that found nothing since the speech began
        self._said = self._played = self._answer = 0  # samples
        self._latencies: collections.deque[float] = collections.deque(maxlen=32)
        self._feed_times: collections.deque[float] = collections.deque()
        self._closed = False
        self._failure: BaseException | None = None
        work = {"feed": self._feed, "take": self._take}
        self._threads = [
            threading.Thread(target=run, name=f"tm_jax-{name}", daemon=True) for name, run in work.items()
        ]
        for thread in self._threads:
            thread.start()

    def say(self, samples: np.ndarray) -> None:
        """Give the next piece of what the character says, as `Session.push` takes blocks.

        Raises:
          InputError: it is no block of sound.
        """
        block = as_block(samples)
        with self._changed:
            if not self._closed and len(block):
                self._speech.append(block)
                self._speech_length += len(block)
                self._said += len(block)
                self._changed.notify_all()

    def begin_answer(self) -> None:
        """What is said from now on is another answer: ``interrupt`` counts from here."""
        with self._changed:
            self._answer = self._said

    def interrupt(self) -> float:
        """Drop what is not played yet, at once; returns the seconds of the answer that were played."""
        with self._changed:
            played = max(0, self._played - self._answer) / SAMPLE_RATE
            self._speech.clear()
            self._speech_length, self._late = 0, 0
            self._order = collections.deque(w for w in self._order if w.still is None)
            for waiting in self._order:
                waiting.speech = 0
            # The mouth of the frames that are there still moves for a moment, but is not heard.
            silent = np.zeros(SAMPLES_PER_FRAME, np.float32)
            self._ready = collections.deque(
                dataclasses.replace(tick, samples=silent, speech=0) for tick in self._ready
            )
            self._said = self._answer = self._played
            if self._session.waiting > self._ahead / SAMPLE_RATE:
                # What waits becomes a chunk of silence, and what was looked ahead to is gone as well.
                self._session.interrupt()
                self._looked_ahead = False
                self._feed_times.clear()
        return played

    @property
    def speaking(self) -> bool:
        """Whether anything is being said or about to be."""
        with self._changed:
            return self._played < self._said

    @property
    def failure(self) -> BaseException | None:
        """What ended the engine's stream, if anything did."""
        return self._failure

    def tick(self) -> Tick:
        """The next frame and its sound; never waits."""
        with self._changed:
            self.counts.ticks += 1
            if self._ready:
                tick = self._ready.popleft()
                self._last = tick.frame
                self._played += tick.speech
            else:
                tick = Tick(self._last, np.zeros(SAMPLES_PER_FRAME, np.float32), 0, fresh=False)
                if self.counts.chunks:
                    self.counts.stalls += 1
                    self._late += 1
            self._changed.notify_all()
            return tick

    def close(self) -> None:
        """End the stream; leaves no thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._session.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _lead(self) -> int:
        """Frames that must be on their way so that the next chunk comes in time."""
        if not self._latencies:
            return 0
        slow = float(np.percentile(self._latencies, 90))
        return min(MOST_AHEAD, math.ceil(slow * FRAMES_PER_SECOND) + MARGIN)

    def _on_the_way(self) -> int:
        return len(self._ready) + sum(waiting.frames for waiting in self._order)

    def _feed(self) -> None:
        """Gives the engine one chunk of sound after another."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._on_the_way() <= self._lead())
                if self._closed:
                    return
                frames = 4 * self._chunk - (3 if self._fed == 0 else 0)
                block, speech = self._next_sound(frames * SAMPLES_PER_FRAME)
                behind = self._late >= 4 * self._chunk
                if speech and behind and self._fed:
                    self._skip(block, frames, speech)
                    continue
                if not speech:
                    self._late = 0
                if not self._looked_ahead:
                    self._looked_ahead = True
                    block = np.concatenate([block, np.zeros(self._ahead, np.float32)])
                self._fed += 1
                self._order.append(_Waiting(frames, speech))
                self._feed_times.append(time.perf_counter())
            try:
                self._session.push(block, timeout=None)
            except SessionClosed:
                return

    def _next_sound(self, count: int) -> tuple[np.ndarray, int]:
        """So many samples: what is to be said, then silence; and how many are speech."""
        parts, left = [], count
        while left and self._speech:
            block = self._speech.popleft()
            parts.append(block[:left])
            if len(block) > left:
                self._speech.appendleft(block[left:])
            left -= len(parts[-1])
        speech = count - left
        self._speech_length -= speech
        return np.concatenate([*parts, np.zeros(left, np.float32)]), speech

    def _skip(self, block: np.ndarray, frames: int, speech: int) -> None:
        """Play a chunk of speech beside a still frame; the engine goes on with what follows."""
        self._late = 0
        self.counts.skipped_chunks += 1
        self._order.append(_Waiting(frames, speech, still=block))
        self._release_still()
        self._changed.notify_all()

    def _release_still(self) -> None:
        """Still frames whose turn it is become ready."""
        while self._order and self._order[0].still is not None:
            waiting = self._order.popleft()
            for index in range(waiting.frames):
                samples = waiting.still[index * SAMPLES_PER_FRAME : (index + 1) * SAMPLES_PER_FRAME]
                speech = max(0, min(SAMPLES_PER_FRAME, waiting.speech - index * SAMPLES_PER_FRAME))
                frame = self._ready[-1].frame if self._ready else self._last
                self._ready.append(Tick(frame, samples, speech, fresh=False))

    def _take(self) -> None:
        """Takes the engine's frames as they come."""
        try:
            for piece in self._session.pieces():
                with self._changed:
                    self._add(piece)
                    self._changed.notify_all()
        except BaseException as error:
            self._failure = error
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()

    def _add(self, piece) -> None:
        if piece.index != self._index:
            self._index = piece.index
            if self._feed_times:
                self._latencies.append(time.perf_counter() - self._feed_times.popleft())
        for index, frame in enumerate(piece.frames):
            samples = piece.audio[index * SAMPLES_PER_FRAME : (index + 1) * SAMPLES_PER_FRAME]
            speech = 0
            if self._order:
                waiting = self._order[0]
                speech = min(SAMPLES_PER_FRAME, waiting.speech)
                waiting.frames, waiting.speech = waiting.frames - 1, waiting.speech - speech
                if waiting.frames == 0:
                    self._order.popleft()
            self._ready.append(Tick(frame, samples, speech, fresh=True))
        if piece.last:
            self.counts.chunks += 1
        self._release_still()
