"""Where a stream's sound waits until the DiT stage takes it up: bounded in seconds, from any thread."""

import collections
import dataclasses
import threading
import time
from typing import Any

import numpy as np
from jaxtyping import Float32

from tm_jax.audio.blocks import as_block
from tm_jax.audio.chunking import Mode
from tm_jax.errors import InputError
from tm_jax.rates import SAMPLE_RATE
from tm_jax.streaming.channel import Closed


class BacklogFull(Exception):
    """A stream is given sound faster than its video is taken, and as much waits already as may wait."""


class SessionClosed(Exception):
    """Sound was given to a stream that is closed, ended, or failed."""


@dataclasses.dataclass(frozen=True)
class Sound:
    """A block of sound."""

    samples: Float32[np.ndarray, "s"]
    pushed: float
    """When it came, on time.perf_counter's clock."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """An error in its place among the chunks."""

    error: BaseException
    fatal: bool
    """Whether the stream ends with it."""


@dataclasses.dataclass(frozen=True)
class End:
    """The end of the sound."""


class Inbox:
    """Sound, faults and the end in the order in which they came; the mode and interruptions beside them.

    It knows nothing of models, so a thread that is stuck in somebody's source of sound may hold it.
    """

    def __init__(self, backlog: float | int, mode: Mode):
        """Begins empty.

        Args:
          backlog: seconds of sound that may wait: a block is taken if fewer do.
          mode: to begin with.
        """
        self.mode: Mode = mode
        self._limit = backlog * SAMPLE_RATE
        self._items: collections.deque[Sound | Fault | End] = collections.deque()
        self._samples, self._interrupted, self._ended, self._closed = 0, False, False, False
        self._changed = threading.Condition()

    @property
    def samples(self) -> int:
        """Samples that wait here."""
        return self._samples

    def push(self, block: Any, timeout: float | int | None) -> None:
        """Append a block; a bad one becomes a fault in its place.

        Args:
          timeout: seconds to wait for room; None waits as long as it takes.

        Raises:
          BacklogFull: there was no room; the block was not taken.
          SessionClosed: nothing is taken any more.
        """
        try:
            item: Sound | Fault = Sound(as_block(block), 0.0)
        except InputError as error:
            item = Fault(error, fatal=False)
        with self._changed:
            room = lambda: self._ended or self._closed or self._samples < self._limit
            if not self._changed.wait_for(room, timeout):
                raise BacklogFull(
                    f"{self._samples / SAMPLE_RATE:.1f} s of sound wait already: take the chunks of the "
                    "stream as fast as its sound comes, or give the sound later."
                )
            if self._ended or self._closed:
                raise SessionClosed(f"the stream is {'closed' if self._closed else 'finished'}")
            if isinstance(item, Sound):
                self._samples += len(item.samples)
                item = dataclasses.replace(item, pushed=time.perf_counter())
            self._append(item)

    def finish(self) -> None:
        """The end of the sound; a second one changes nothing."""
        self._end(End())

    def fail(self, error: BaseException) -> None:
        """The sound ends with an error."""
        self._end(Fault(error, fatal=True))

    def _end(self, item: Fault | End) -> None:
        with self._changed:
            if not (self._ended or self._closed):
                self._ended = True
                self._append(item)

    def _append(self, item: Sound | Fault | End) -> None:
        self._items.append(item)
        self._changed.notify_all()

    def interrupt(self) -> None:
        """Drop the sound that waits here, and say so to the DiT stage."""
        with self._changed:
            self._items = collections.deque(item for item in self._items if not isinstance(item, Sound))
            self._samples, self._interrupted = 0, True
            self._changed.notify_all()

    def interrupted(self) -> bool:
        """Whether there was an interruption since this was asked last."""
        with self._changed:
            was, self._interrupted = self._interrupted, False
            return was

    def get(self) -> Sound | Fault | End | None:
        """The oldest item as soon as there is one; None when there was an interruption.

        Raises:
          Closed: the inbox is closed, or is closed in the meantime.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._interrupted or self._items)
            if self._closed:
                raise Closed
            if self._interrupted:
                return None
            item = self._items.popleft()
            if isinstance(item, Sound):
                self._samples -= len(item.samples)
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Drop everything, wake whoever waits here, and take nothing more."""
        with self._changed:
            self._closed, self._samples = True, 0
            self._items.clear()
            self._changed.notify_all()
