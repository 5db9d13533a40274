"""A function whose tensors never move, run as it is, or on a GPU as a CUDA graph.

The first call runs the function (compilers and libraries choose their kernels then) and captures it, every
later one replays what was captured: no Python, no launch by launch.  What it reads and writes must stay where
it is for ever, and be on one device.
"""

import threading
from collections.abc import Callable

import torch

_CAPTURING = threading.Lock()
"""Captures of several threads come one after another."""


class Replayed:
    """The function; called without arguments, on the current stream."""

    def __init__(self, run: Callable[[], object], device: torch.device):
        self._run, self._device = run, device
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Run it, or replay it."""
        if self._graph is not None:
            self._graph.replay()
            return
        self._run()
        if self._device.type == "cuda":
            graph = torch.cuda.CUDAGraph()
            # Other threads go on launching their kernels meanwhile.
            with _CAPTURING, torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._run()
            self._graph = graph
