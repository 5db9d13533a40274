"""How a command ends: whatever stops it is told in one sentence, with the exit status that shells expect.

Every ``main`` is ``return run(NAME, work)``.  Nothing here imports JAX.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

from tm_jax.errors import InputError

BAD_INPUT = 2
STOPPED = 128 + signal.SIGINT
_BROKEN_PIPE = 128 + signal.SIGPIPE
EXTRAS = {
    **dict.fromkeys(("jax", "flax"), "jax"),
    **dict.fromkeys(("torch", "transformers", "matplotlib"), "serving"),
    **dict.fromkeys(("optax", "orbax", "grain", "array_record", "chex", "tensorboardX"), "train"),
    **dict.fromkeys(("espeakng_loader", "huggingface_hub", "scipy"), "train"),
    **dict.fromkeys(("aiohttp", "aiortc", "prometheus_client", "livekit"), "live"),
    "diffusers": "test",
}
"""What brings the packages that not every command needs: an extra of pyproject.toml."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: unwinds like Ctrl-C, so that what was begun is closed or removed."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def run(name: str, work: Callable[[], int | None], *, stopped: str = "") -> int:
    """Run a command's work and return its exit status.

    0, or what ``work`` returns; 2 after bad input, a file that cannot be used, too little memory or a package
    that is not installed; 130 after Ctrl-C, 143 after SIGTERM; 141 where nobody reads the output any more
    (``| head``).

    Args:
      name: what the sentences begin with.
      stopped: what is left of an interrupted run, such as ``the same command goes on from here``.

    Raises:
      SystemExit: as ``work`` raised it, such as after --help.
    """
    _open_streams()
    try:
        with _terminating():
            status = work() or 0
    except InputError as error:
        status = _tell(name, str(error))
    except KeyboardInterrupt as stop:
        _tell(name, f"stopped; {stopped}." if stopped else "stopped.")
        status = 128 + stop.number if isinstance(stop, Terminated) else STOPPED
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        extra = EXTRAS[error.name]
        status = _tell(name, f'this needs {error.name}, which is not installed: pip install ".[{extra}]".')
    except MemoryError:
        status = _tell(name, "the memory of this machine does not suffice.")
    except OSError as error:
        unread = isinstance(error, BrokenPipeError) and _nobody_reads(sys.stdout)
        status = _BROKEN_PIPE if unread else _tell(name, _cannot(error))
    except SystemExit as end:
        if failure := _flush(name):
            return failure
        raise end
    return _flush(name) or status


def _cannot(error: OSError) -> str:
    """A sentence about a file or a connection that failed below all checks."""
    what = error.filename if error.filename is not None else "the output or a file"
    reason = error.strerror or str(error) or type(error).__name__
    return f"{what} cannot be used ({reason}): check the path, its rights and the room on its disk."


def _tell(name: str, sentence: str) -> int:
    """Print a sentence where it is read, if anybody does; returns the status of bad input."""
    with contextlib.suppress(OSError):
        print(f"{name}: {sentence}", file=sys.stderr, flush=True)
    return BAD_INPUT


def _open_streams() -> None:
    """Give closed streams a place to write to, and let no character be too much for a terminal."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            # Nothing closes it: it lives as long as the process.
            setattr(sys, stream, open(os.devnull, "w"))
        elif hasattr(getattr(sys, stream), "reconfigure"):
            getattr(sys, stream).reconfigure(errors="replace")


def _nobody_reads(stream: TextIO) -> bool:
    """Whether a stream is a pipe whose other end is closed; a pipe to a process of ours may break as well."""
    with contextlib.suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


def _flush(name: str) -> int:
    """Write what is left of the output; the exit status if that fails, else 0."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)
        return _BROKEN_PIPE
    except OSError as error:
        _discard(sys.stdout)
        return _tell(name, f"standard output cannot be written ({error.strerror}).")
    return 0


def _discard(stream: TextIO) -> None:
    """Let the interpreter's own flush at its end go nowhere, instead of failing again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception, where nobody else listens to them."""

    def stop(number, frame):
        raise Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = (signal.SIGTERM, signal.SIGHUP)
    signals = [number for number in wanted if signal.getsignal(number) is signal.SIG_DFL]
    for number in signals:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_DFL)
