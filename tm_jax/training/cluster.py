"""Several processes as one training: how they find each other, and how a dead one is noticed and named.

A scheduler's environment is enough (Slurm, Open MPI, Kubernetes, TPU VMs and GKE): JAX itself asks it.
Elsewhere three flags say where process 0 is, how many there are and which this is.

Every process writes a sign of life into the run's folder, which all share, and reads the others'.  One that
stays silent is named, and the process that noticed ends: a collective that waits for the dead never returns.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from tm_jax.errors import InputError

RESTART = 75
"""Exit status of a process that lost another one: temporary, so a scheduler may start the run again."""


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """The processes of a training; without flags the environment is asked, and one process is no cluster."""

    coordinator: str | None = None
    """host:port of process 0."""
    processes: int | None = None
    """Processes in all."""
    process: int | None = None
    """Which of them this is, from 0."""
    timeout: float = 120.0
    """Seconds of silence after which a process counts as dead, and of waiting for the others to come."""

    def __post_init__(self):
        given = [value is not None for value in (self.coordinator, self.processes, self.process)]
        if any(given) and not all(given):
            raise ValueError("cluster: give coordinator, processes and process together, or none of them")
        if all(given) and not 0 <= self.process < self.processes:
            raise ValueError(f"cluster: process {self.process} is not one of 0 … {self.processes - 1}")
        if self.timeout < 5:
            raise ValueError(f"cluster: a timeout of {self.timeout:g} s is shorter than a sign of life takes")


def several_hosts(environment: os._Environ | dict[str, str]) -> bool:
    """Whether a scheduler started this process as one of several."""
    number = lambda name: int(environment.get(name) or 1)
    return (
        # A shell on a Slurm node has no step; srun gives every process one.
        ("SLURM_STEP_NODELIST" in environment and number("SLURM_NTASKS") > 1)
        or number("OMPI_COMM_WORLD_SIZE") > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or "," in environment.get("TPU_PROCESS_ADDRESSES", "")
        or number("MEGASCALE_NUM_SLICES") > 1
        or ("JOB_COMPLETION_INDEX" in environment and "JAX_COORDINATOR_ADDRESS" in environment)
    )


def join(config: ClusterConfig) -> None:
    """Makes this process one of the cluster; call it before anything asks JAX for its devices.

    Raises:
      InputError: the others do not come, or the environment does not say who they are.
    """
    settings = {
        "initialization_timeout": int(config.timeout),
        "heartbeat_timeout_seconds": int(2 * config.timeout),
        "shutdown_timeout_seconds": int(config.timeout),
    }
    if config.coordinator is not None:
        settings |= {
            "coordinator_address": config.coordinator,
            "num_processes": config.processes,
            "process_id": config.process,
        }
    elif not several_hosts(os.environ):
        return
    try:
        jax.distributed.initialize(**settings)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise InputError(
            f"The processes of this run did not find each other in {config.timeout:g} s ({reason}): check "
            "that all were started and reach process 0, or give --loop.cluster.coordinator, .processes and "
            ".process."
        ) from error


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Leaves the cluster in order at the end, after success or one sentence alike.

    Where the others do not come to leave it too, JAX aborts this process; it says why it ended before that.
    """
    sentence, status = "the other processes did not leave the cluster: start the run again.", RESTART
    try:
        yield
    except InputError as error:
        sentence, status = str(error), 2
        raise
    finally:
        if jax.distributed.is_initialized():
            last_words = lambda: end_process(sentence, status)
            with _before_an_abort(last_words), contextlib.suppress(RuntimeError):
                jax.distributed.shutdown()


class SignsOfLife:
    """Writes this process's sign of life and watches the others'; does nothing with one process.

    Clocks of hosts differ, so that what counts is how long a file has not changed by this process's clock.
    """

    def __init__(
        self,
        folder: Path,
        timeout: float,
        *,
        process: int,
        processes: int,
        session: int = 0,
        on_death: Callable[[str], None] | None = None,
    ):
        """Starts beating.

        Args:
          session: a number that the processes share; what earlier sessions left is not read.
          on_death: told one sentence; by default it is printed and the process ends with ``RESTART``.
        """
        self.folder, self.timeout = folder, timeout
        self.process, self.processes, self.session = process, processes, session
        self.step = 0
        self._count, self._on_death = 0, on_death or end_process
        self._over = threading.Event()
        self._seen: dict[int, tuple[dict, float]] = {}
        if processes > 1:
            folder.mkdir(parents=True, exist_ok=True)
            self._beat()
            threading.Thread(target=self._watch, name="signs of life", daemon=True).start()

    def _path(self, process: int) -> Path:
        return self.folder / f"process-{process}.json"

    def _beat(self, ended: str | None = None) -> None:
        """Writes a sign; ``ended`` is why this process ends, empty where all is well."""
        self._count += 1
        sign = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "session": self.session,
            "step": self.step,
            "beat": self._count,
            "ended": ended,
        }
        partial = self._path(self.process).with_suffix(f".{threading.get_ident()}.partial")
        # A full or slow disk must not look like a death of this process's own making.
        with contextlib.suppress(OSError):
            partial.write_text(json.dumps(sign), encoding="utf-8")
            os.replace(partial, self._path(self.process))

    def _watch(self) -> None:
        pause = min(5.0, self.timeout / 10)
        while not self._over.wait(pause):
            self._beat()
            if (dead := self.dead()) and not self._over.is_set():
                self._on_death(dead)
                return

    def dead(self) -> str | None:
        """One sentence about the processes that have ended with a fault or been silent for too long."""
        now, gone = time.monotonic(), []
        for process in range(self.processes):
            if process == self.process:
                continue
            before, since = self._seen.setdefault(process, ({}, now))
            with contextlib.suppress(OSError, ValueError):
                sign = json.loads(self._path(process).read_text("utf-8"))
                if sign["session"] == self.session and sign != before:
                    before, since = self._seen[process] = (sign, now)
            who = f"process {process}" + (f" on {before['host']} (pid {before['pid']})" if before else "")
            if before.get("ended"):
                gone.append(f"{who} ended at step {before['step']}: {before['ended']}")
            elif before.get("ended") is None and now - since > self.timeout:
                last = f", since step {before['step']}" if before else ""
                gone.append(f"{who} has given no sign of life for {now - since:.0f} s{last}")
        if not gone:
            return None
        return f"{'; '.join(gone)} - this process ends too, so that the run can be started again."

    def explain(self, error: Exception | str) -> str:
        """One sentence about a collective that failed: who is dead, as soon as that is sure."""
        began = time.monotonic()
        while time.monotonic() - began < self.timeout + 10:
            if dead := self.dead():
                return dead
            time.sleep(min(1.0, self.timeout / 10))
        reason = str(error).strip().splitlines()[0][:200]
        return f"the processes lost each other ({reason}): start the run again."

    def close(self, ended: str = "") -> None:
        """Stops watching, and tells the others why."""
        self._over.set()
        if self.processes > 1:
            self._beat(ended)


def end_process(sentence: str, status: int = RESTART) -> None:
    """A thread cannot raise in the one that waits inside a collective, so the process ends."""
    print(f"\ntrain.py: {sentence}", file=sys.stderr, flush=True)
    os._exit(status)


@contextlib.contextmanager
def _before_an_abort(do: Callable[[], None]) -> Iterator[None]:
    """While the block runs, this is done before the process is aborted.

    JAX's own coordination aborts a process when it misses another one, and names nobody.  The handler is C's:
    Python's would wait for the main thread, which waits inside a collective.
    """
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: do())
    before = libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        libc.signal(signal.SIGABRT, before)


@contextlib.contextmanager
def watched(folder: Path, config: ClusterConfig) -> Iterator[SignsOfLife]:
    """Signs of life while the block runs; a fault in one process ends all of them with its sentence."""
    session = 0
    if jax.process_count() > 1:
        session = int(multihost_utils.broadcast_one_to_all(np.int32(time.time() % 2**31)))
    life = SignsOfLife(
        folder,
        config.timeout,
        process=jax.process_index(),
        processes=jax.process_count(),
        session=session,
    )
    # An abort may come while a failed collective is being explained, too.
    explain = lambda: end_process(life.explain("see the lines above"))
    with _before_an_abort(explain) if life.processes > 1 else contextlib.nullcontext():
        try:
            yield life
        except jax.errors.JaxRuntimeError as error:
            if life.processes == 1:
                raise
            end_process(life.explain(error))
        except SystemExit:
            life.close()
            raise
        except BaseException as error:
            life.close(str(error) or type(error).__name__)
            raise
        else:
            life.close()
