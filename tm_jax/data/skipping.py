"""Elements that cannot be read are left out: another takes their place, and too many of them end the run.

How many there are is said on standard error, each time that one more is found.
"""

import sys
import threading
from typing import Any, Protocol, runtime_checkable

from safetensors import SafetensorError

from tm_jax.errors import InputError

_FAULTS = (ValueError, KeyError, OSError, RuntimeError, EOFError, IndexError, SafetensorError)


@runtime_checkable
class Source(Protocol):
    """Random access to elements."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Skipping:
    """A source whose damaged elements are replaced by their neighbours, and counted."""

    def __init__(self, source: Source, share: float, *, missing: int = 0):
        """Args:
        share: the largest share of all elements that may be damaged or missing.
        missing: elements that are known to be gone already.
        """
        self._source, self._share, self._missing = source, share, missing
        self._bad: dict[int, str] = {}
        self._lock = threading.Lock()
        if missing:
            self._check("")
            self._tell("in shards that are missing or cut off")

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        for place in range(len(self._source)):
            at = (int(index) + place) % len(self._source)
            if at in self._bad:
                continue
            try:
                return self._source[at]
            except _FAULTS as error:
                with self._lock:
                    self._bad[at] = str(error).strip().split("\n")[0][:160] or type(error).__name__
                self._check(f"; element {at}: {self._bad[at]}")
                self._tell(f"the last one is element {at} ({self._bad[at]}), whose neighbour takes its place")
        raise InputError(f"No element of {self._source!r} can be read: prepare the data again.")

    @property
    def skipped(self) -> int:
        """Elements left out so far, by this process."""
        return len(self._bad) + self._missing

    def _check(self, detail: str) -> None:
        whole = len(self._source) + self._missing
        if self.skipped > self._share * whole:
            raise InputError(
                f"{self.skipped} of the {whole} elements of {self._source!r} are damaged or missing, more "
                f"than the {self._share:.1%} of --loop.skip{detail}: copy or prepare the data again, "
                "or raise --loop.skip."
            )

    def _tell(self, where: str) -> None:
        whole = len(self._source) + self._missing
        told = f"{self.skipped} of the {whole} elements of {self._source!r} cannot be read: {where}"
        print(f"\n{told}", file=sys.stderr, flush=True)

    def __repr__(self) -> str:
        return f"Skipping({self._source!r})"
