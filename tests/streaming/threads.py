"""What tests of threads ask: which there are, and what becomes of a number that they change."""

import threading
import time

STAGES = {"tm_jax-dit", "tm_jax-vae", "tm_jax-feed"}
"""A stream's own.  An engine in PyTorch has one as well until it is forgotten: other tests leave those."""


def stages() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in STAGES]


def eventually(condition) -> None:
    """Wait until something holds; fail if it never does."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came true")


def settled(value) -> object:
    """A number that threads change, once it no longer does."""
    seen = [value()]
    while len(seen) < 1000 and len(set(seen[-6:])) + (len(seen) < 6) > 1:
        time.sleep(0.02)
        seen.append(value())
    return seen[-1]
