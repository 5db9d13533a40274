"""One character talking: sound is pushed from one thread, chunks of video are taken in another.

Two stages run at the same time, each in a thread and, where there are two, on a device of its own:

    push ─► inbox ─► DiT stage   │ chunk 0 │ chunk 1 │ chunk 2 │ …
                     VAE stage             │ chunk 0 │ chunk 1 │ …
                     iteration               ▲ its first frames as soon as they are decoded

Between them lies little: one chunk of latents, and of frames about one chunk.  Whoever takes the frames
slowly makes the stages wait, and then the sound, of which up to ``backlog`` seconds may wait; beyond that
``push`` waits for its timeout and refuses the block.  Whoever takes none at all therefore costs bounded
memory and no work.  Sound that stops or stutters makes the stages wait, too, and nothing else.
"""

import functools
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np

from tm_jax.audio.chunking import AudioChunker, Mode
from tm_jax.audio.listening import Stretch
from tm_jax.errors import InputError
from tm_jax.rates import SAMPLE_RATE
from tm_jax.streaming.backend import Backend
from tm_jax.streaming.channel import Channel, Closed
from tm_jax.streaming.inbox import End, Fault, Inbox
from tm_jax.streaming.stages import decode_stage, denoise_stage, run_stage
from tm_jax.streaming.statistics import StreamChunk, join

BACKLOG = 60.0
"""Seconds of sound that wait at most where nothing else is said."""
PUSH_TIMEOUT = 10.0
"""Seconds that a push waits for room where nothing else is said."""


class Session:
    """A stream of one character; `StreamEngine.session` makes them.

    ``push``, ``finish``, ``interrupt``, ``mode`` and ``close`` may be used from any thread; chunks are to be
    taken by one thread at a time.  Use it as a context, or close it: what is left open is closed when the
    object is forgotten.
    """

    def __init__(
        self,
        backend: Backend,
        reference: Any,
        *,
        seed: int = 0,
        mode: str = "auto",
        listen: tuple[Stretch, ...] = (),
        backlog: float | int = BACKLOG,
        started: float | None = None,
    ):
        """Starts the stages; what is given has been checked (``check_options``).

        Args:
          reference: what the backend made of a picture.
          seed: of the noise; the same seed, picture and sound give the same video.
          mode: auto follows voice activity; speak and listen hold one mode.
          listen: stretches in seconds of the video in which the character listens.
          backlog: seconds of sound that may wait.
          started: when the stream began, on time.perf_counter's clock; None is now.
        """
        rollout = backend.rollout
        self.inbox = Inbox(backlog, mode)
        """Where its sound waits; it may be held without holding the session."""
        latents: Channel = Channel(1)
        self._pieces: Channel = Channel(rollout.chunk)
        chunker = AudioChunker(
            backend.front_end,
            chunk=rollout.chunk,
            left=backend.audio_left,
            lookahead=backend.audio_lookahead,
            mode=mode,
            listen=listen,
        )
        started = time.perf_counter() if started is None else started
        denoise = functools.partial(denoise_stage, backend, reference, chunker, seed, self.inbox, latents)
        decode = functools.partial(decode_stage, backend, latents, self._pieces, started)
        self._threads = [
            threading.Thread(
                target=run_stage, args=(run, self.inbox, output), name=f"tm_jax-{name}", daemon=True
            )
            for name, run, output in (("dit", denoise, latents), ("vae", decode, self._pieces))
        ]
        # What a forgotten session's end needs must not hold the session, nor wait for its threads: it may
        # run in one of them.
        self._shut = weakref.finalize(self, _shut, self.inbox, latents, self._pieces)
        self._over = False
        for thread in self._threads:
            thread.start()

    @property
    def mode(self) -> Mode:
        """auto, speak or listen; takes effect with the next chunk that is denoised."""
        return self.inbox.mode

    @mode.setter
    def mode(self, mode: str) -> None:
        _check_mode(mode)
        self.inbox.mode = mode

    @property
    def waiting(self) -> float:
        """Seconds of sound that were pushed and not taken up yet."""
        return self.inbox.samples / SAMPLE_RATE

    def push(self, block: Any, timeout: float | int | None = PUSH_TIMEOUT) -> None:
        """Give the next block of 16 kHz mono sound, of any length; it is copied.

        int16 is divided by 32768, float32 and float64 stay as they are.  Any other block is left out, and is
        an InputError of the iteration, after the chunks before it; the session lives on.

        Args:
          timeout: seconds to wait where as much sound waits as may; 0 for a caller that must not wait, None
            for one that has time.

        Raises:
          BacklogFull: no room came; the block was not taken.
          SessionClosed: the session is closed, finished, or has failed.
        """
        self.inbox.push(block, timeout)

    def finish(self) -> None:
        """The end of the sound: the iteration ends after the video of what was pushed."""
        self.inbox.finish()

    def interrupt(self) -> None:
        """Drop all sound that is not denoised yet; the next chunk listens to silence, and comes at once.

        Chunks that are denoised already still come.  What is pushed afterwards follows the chunk of silence.
        """
        self.inbox.interrupt()

    def close(self) -> None:
        """End the session, whoever waits in it: returns when its stages have ended, within one chunk."""
        self._over = True
        self._shut()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __iter__(self) -> Iterator[StreamChunk]:
        return self

    def __next__(self) -> StreamChunk:
        """The next whole chunk; waits for it.

        Raises:
          InputError: a block was bad; the iteration can go on.
          StopIteration: the sound has ended, or the session was closed.
        """
        pieces = [self._next_piece()]
        while not pieces[-1].last:
            pieces.append(self._next_piece())
        return join(pieces)

    def pieces(self) -> Iterator[StreamChunk]:
        """Chunks in pieces, each as soon as it is decoded: the way to the lowest latency.

        Raises what the iteration over chunks raises; after an InputError call it again.
        """
        while True:
            try:
                piece = self._next_piece()
            except StopIteration:
                return
            yield piece

    def _next_piece(self) -> StreamChunk:
        if self._over:
            raise StopIteration
        try:
            piece = self._pieces.get()
        except Closed:
            raise StopIteration from None
        if isinstance(piece, End):
            self.close()
            raise StopIteration
        if isinstance(piece, Fault):
            if piece.fatal:
                self.close()
            raise piece.error
        return piece


def check_options(seed: Any, mode: Any, listen: Any, backlog: Any) -> None:
    """Refuse what no stream can be begun with.

    Raises:
      InputError: a seed that is none, an unknown mode, an empty stretch, or no backlog at all.
    """
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
        raise InputError(f"The seed {seed!r} is no whole number from 0 to 2⁶⁴ - 1: give one.")
    _check_mode(mode)
    for stretch in listen:
        try:
            begin, end = stretch
            whole = bool(0 <= begin < end)
        except (TypeError, ValueError):
            whole = False
        if not whole:
            raise InputError(
                f"The listening stretch {stretch!r} does not begin before it ends: give (from, to)."
            )
    if not isinstance(backlog, (int, float)) or not backlog > 0:
        raise InputError(f"The backlog of {backlog!r} s leaves no room for sound: give more than 0.")


def _check_mode(mode: Any) -> None:
    if mode not in get_args(Mode):
        raise InputError(f"The mode {mode!r} is unknown: give {', '.join(get_args(Mode))}.")


def _shut(*queues: Inbox | Channel) -> None:
    for queue in queues:
        queue.close()
