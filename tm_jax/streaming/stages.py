"""Stages of a stream run at the same time, each in a thread: the same for every engine."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def in_thread(items: Iterator[Item], stop: threading.Event, depth: int = 1) -> Generator[Item]:
    """The same items, made ahead of time in a thread: at most ``depth`` of them wait.

    What the iterator raises is raised here, after the items before it.  Setting ``stop`` or closing
    this generator ends the thread after the item it is at.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    end, closed = object(), threading.Event()
    over = lambda: stop.is_set() or closed.is_set()

    def put(entry) -> bool:
        while not over():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work():
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((end, None))
        except BaseException as error:
            put((end, error))
        finally:
            if hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=work, name="tm_jax-stage", daemon=True)
    thread.start()
    try:
        while not over():
            try:
                item, error = ready.get(timeout=0.1)
            except queue.Empty:
                continue
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        closed.set()
        # A thread that waits for sound cannot be woken; it ends with the program.
        thread.join(timeout=2.0)
