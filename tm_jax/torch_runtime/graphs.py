"""A function whose tensors never move, run as it is, or on a GPU as a CUDA graph.

The first call runs the function (compilers and libraries choose their kernels then), the second captures it,
every later one replays what was captured: no Python, no launch by launch.  What it reads and writes must
stay where it is for ever, and be on one device.
"""

from collections.abc import Callable

import torch


class Replayed:
    """The function; called without arguments, on the current stream."""

    def __init__(self, run: Callable[[], None], device: torch.device):
        self._run, self._device = run, device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._calls = 0

    def __call__(self) -> None:
        """Run it, or replay it."""
        self._calls += 1
        if self._device.type != "cuda" or self._calls == 1:
            self._run()
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            # Other threads go on launching their kernels meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._run()
        self._graph.replay()
