"""The files of a run that a restart must mend: steps after the checkpoint are made again, and must not be
logged twice."""

import json
import os
import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event


def keep_until(folder: Path, step: int) -> None:
    """Drops from metrics.jsonl and from TensorBoard's files whatever is of a later step than this."""
    lines = folder / "metrics.jsonl"
    if lines.exists():
        kept = [line for line in lines.read_bytes().splitlines(keepends=True) if _is_until(line, step)]
        _replace(lines, b"".join(kept))
    for path in folder.glob("events.out.tfevents.*"):
        records = _records(path.read_bytes())
        _replace(path, b"".join(record for record, event in records if event.step <= step))


def _is_until(line: bytes, step: int) -> bool:
    """Whether a whole line is of this step or an earlier one; a killed process may leave part of a line."""
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False


def _replace(path: Path, content: bytes) -> None:
    if content == path.read_bytes():
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def _records(content: bytes) -> list[tuple[bytes, Event]]:
    """Each whole record of a TensorBoard file (length, checksum, event, checksum), and its event."""
    found, place = [], 0
    while place + 12 <= len(content):
        length = struct.unpack_from("<Q", content, place)[0]
        stop = place + 12 + length + 4
        if stop > len(content):
            break
        found.append((content[place:stop], Event.FromString(content[place + 12 : stop - 4])))
        place = stop
    return found
