"""What stages launch on, and what their streams leave to the next ones."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Lane:
    """What a stage launches on: a CUDA stream of its device, or on a CPU nothing."""

    def __init__(self, device: torch.device, priority: int = 0):
        self.device = device
        self.stream = torch.cuda.Stream(device, priority=priority) if device.type == "cuda" else None
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Launch on it; on a GPU one thread at a time, so that chunks of several streams do not mix."""
        if self.stream is None:
            yield
            return
        with self._lock, torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            yield

    def mark(self) -> torch.cuda.Event | None:
        """An event after all that was launched on it."""
        if self.stream is None:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(self.stream)
        return event

    def after(self, event: torch.cuda.Event | None) -> None:
        """What is launched from now on waits for an event, of whichever lane."""
        if event is not None and self.stream is not None:
            self.stream.wait_event(event)


class Pool:
    """States that streams have left, for the next ones: what is allocated and captured stays."""

    def __init__(self):
        self._free: list[Any] = []
        self._lock = threading.Lock()

    def take(self, make: Callable[[], Any]) -> "Lent":
        """A free state, or a new one."""
        with self._lock:
            content = self._free.pop() if self._free else None
        lent = Lent(make() if content is None else content)
        weakref.finalize(lent, self._free.append, lent.content)
        return lent


class Lent:
    """A state that goes back to its pool when nobody holds this any more."""

    def __init__(self, content: Any):
        self.content = content
