"""Orbax, which writes and reads our checkpoints, without the pages that one fault makes it log."""

import logging
import sys
from typing import Any

import orbax.checkpoint as ocp

__all__ = ["ocp"]


def _not_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs an error of its threads in hundreds of lines before it raises it, for one sentence here."""
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


logging.getLogger("absl").addFilter(_not_orbax)
_told = sys.unraisablehook


def _not_tensorstore(unraisable: Any) -> None:
    """Once one file of a checkpoint could not be written or read, TensorStore tells of every other one that
    it finds the loop closed to which it would report, and Orbax leaves coroutines that failed as well; what
    is wrong is told here, in one sentence."""
    error = unraisable.exc_value
    closed = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
    code = getattr(unraisable.object, "cr_code", None)
    if not (closed or (code and "orbax" in code.co_filename)):
        _told(unraisable)


sys.unraisablehook = _not_tensorstore
