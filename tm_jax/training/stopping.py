"""When a run ends before its last step: signals and the time limit, agreed upon by all processes."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np

from tm_jax.sharding import one_each, replicated


class StopSignal:
    """Notes Ctrl-C and SIGTERM: the first asks the loop to finish, the second ends the process at once."""

    _signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.number: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None

    @property
    def status(self) -> int:
        """Exit status after the checkpoint: a scheduler's SIGTERM is no failure, Ctrl-C gives 130."""
        return 0 if self.number == signal.SIGTERM else 128 + signal.SIGINT

    def __call__(self, number: int, frame: object) -> None:
        self.number = number
        for one in self._signals:
            signal.signal(one, signal.SIG_DFL)
        print("\nfinishing this step, then saving; once more exits at once", file=sys.stderr, flush=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are noted inside."""
        before = [signal.signal(number, self) for number in self._signals]
        try:
            yield
        finally:
            for number, handler in zip(self._signals, before, strict=True):
                signal.signal(number, handler)


class Vote:
    """Whether any process wishes to stop: asked after every step, answered after the next one.

    All processes must stop after the same step.  The answer is a value on the devices like the step's own
    metrics, so that asking waits for nothing.
    """

    def __init__(self, mesh: jax.sharding.Mesh):
        self._mesh, self._pending = mesh, None
        self._any = jax.jit(jnp.any, out_shardings=replicated(mesh))
        self._shares = one_each(mesh)
        if jax.process_count() > 1:
            # The processes' devices meet here, while all are at the same place: where they meet first inside
            # a program that one of them has yet to compile, the others may not wait long enough.
            jax.block_until_ready(self._ask(False))

    def __call__(self, wish: bool) -> bool:
        """Puts this process's wish in; whether one that was put in before the last step is agreed upon."""
        if jax.process_count() == 1:
            return wish
        before, self._pending = self._pending, self._ask(wish)
        return before is not None and bool(before)

    def _ask(self, wish: bool) -> jax.Array:
        mine = np.full(len(self._mesh.local_devices), wish)
        return self._any(jax.make_array_from_process_local_data(self._shares, mine))
