"""Times several functions in one run, in turn, so that whatever else the machine does hits them alike."""

import time
from collections.abc import Callable, Sequence
from typing import Any


def in_turn(
    calls: Sequence[Callable[[], Any]], *, blocks: int, repeats: int = 1, pause: float = 0.0
) -> list[list[float]]:
    """Seconds that each call took, every time; each is called once before, untimed.

    Args:
        calls: functions that return when their work is done.
        blocks: turns that each call gets.
        repeats: times that it runs in a turn.
        pause: seconds of rest before each turn.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(blocks):
        for call, taken in zip(calls, seconds, strict=True):
            time.sleep(pause)
            for _ in range(repeats):
                start = time.perf_counter()
                call()
                taken.append(time.perf_counter() - start)
    return seconds
