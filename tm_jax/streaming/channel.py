"""What goes from one thread of a stream to the next, a little ahead of time."""

import collections
import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Closed(Exception):
    """The stream that this belongs to was closed."""


class Channel(Generic[Item]):
    """A bounded queue between two threads that can be closed from any other.

    Its bound is kept by the producer, who waits for room before he begins what he will put: work ahead is
    then what lies here, and not one item more in his hands.
    """

    def __init__(self, depth: int):
        self._depth, self._items = depth, collections.deque()
        self._changed, self._closed = threading.Condition(), False

    def wait_for_room(self) -> None:
        """Return when fewer than ``depth`` items lie here.

        Raises:
          Closed: the channel is closed, or is closed in the meantime.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            self._check()

    def put(self, item: Item) -> None:
        """Append an item, at once.

        Raises:
          Closed: the channel is closed.
        """
        with self._changed:
            self._check()
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> Item:
        """The oldest item, as soon as there is one.

        Raises:
          Closed: the channel is closed, or is closed in the meantime.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items)
            self._check()
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Drop everything and wake whoever waits here."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _check(self) -> None:
        if self._closed:
            raise Closed
