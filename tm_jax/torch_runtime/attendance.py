"""Which of several processes are alive: each counts in a store that all can read.

A broken exchange says that somebody is gone, and not who: those who notice end as well, and break others'
exchanges.  Whose count stands still first is the one; whoever finds that out writes it into the store, and
lives until all have read it, for the store may go with him.
"""

import contextlib
import datetime
import itertools
import json
import os
import threading
import time

import torch.distributed as dist

BEAT = 0.5
"""Seconds between two counts."""
STILL = 4 * BEAT
"""Seconds without a new count after which a process counts as gone."""


class Attendance:
    """This process's count, and everybody's; over a connection of its own, while others wait on theirs."""

    def __init__(self, rank: int, ranks: int):
        """Begins to count; the process group has been made, by torchrun's addresses."""
        self._rank, self._ranks = rank, ranks
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=datetime.timedelta(seconds=10),
        )
        self._store, self._over = dist.PrefixStore(f"tm_jax/{again}", store), threading.Event()
        self._missing: list[int] | None = None
        threading.Thread(target=self._count, name="tm_jax-attendance", daemon=True).start()

    def _count(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store went with the process that kept it
            for count in itertools.count():
                self._store.set(f"count/{self._rank}", str(count))
                if self._store.check(["missing"]):
                    self._missing = json.loads(self._store.get("missing"))
                if self._over.wait(BEAT):
                    return

    def close(self) -> None:
        """Count no more."""
        self._over.set()

    def missing(self) -> list[int]:
        """The ranks that are gone; takes three seconds.  Empty where all still count."""
        with contextlib.suppress(RuntimeError):
            before = self._counts()
            time.sleep(STILL)
            if self._missing is None:
                still = [rank for rank, count in self._counts().items() if count == before[rank]]
                self._store.set("missing", json.dumps(still))
                time.sleep(STILL / 2)
        # Without torchrun, which has a store of its own, rank 0 keeps it.
        return [0] if self._missing is None else self._missing

    def _counts(self) -> dict[int, bytes | None]:
        names = {rank: f"count/{rank}" for rank in range(self._ranks) if rank != self._rank}
        there = {rank: self._store.check([name]) for rank, name in names.items()}
        return {rank: self._store.get(names[rank]) if there[rank] else None for rank in names}
