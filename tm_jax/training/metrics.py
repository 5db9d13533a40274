"""Where the figures of a run go: TensorBoard, ``metrics.jsonl`` and the progress bar.

Only the first process writes; the others keep quiet.
"""

import json
import math
import time
from collections import defaultdict
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from tm_jax.training.meters import Meters


def not_finite(metrics: dict[str, float]) -> list[str]:
    """Names of the metrics that are NaN or infinite."""
    return [name for name, value in metrics.items() if not math.isfinite(value)]


class RunLog:
    """Averages the steps' metrics between two lines of the log, and shows the latest in the bar."""

    def __init__(self, folder: Path, *, name: str, start: int, steps: int, every: int):
        self.every = every
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._line: dict[str, float] = {}
        self._writes = jax.process_index() == 0
        self._bar = tqdm(
            total=steps,
            initial=start,
            desc=name,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            disable=not self._writes,
        )
        if self._writes:
            folder.mkdir(parents=True, exist_ok=True)
            # Written in this thread, so that a full disk is told here and not by a thread of TensorBoard's.
            self._board = EventsWriter(str(folder / "events"))
            self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def step(self, done: int, metrics: dict[str, float], meters: Meters) -> None:
        """Takes the metrics of the step that made `done` steps in all; writes a line in its turn."""
        for name, value in metrics.items():
            self._sums[name] += value
            self._counts[name] += 1
        self._bar.update(done - self._bar.n)
        if "loss" in metrics:
            self._bar.set_postfix_str(f"loss {metrics['loss']:.4g}", refresh=False)
        if done % self.every == 0:
            self.flush(done, meters)

    def flush(self, done: int, meters: Meters) -> None:
        """Writes the means since the last line, and what the machines did meanwhile."""
        if not self._counts:
            return
        means = {name: self._sums[name] / count for name, count in self._counts.items()}
        means |= meters.figures()
        self._sums.clear()
        self._counts.clear()
        self.scalars(done, means)

    def scalars(self, done: int, values: dict[str, float]) -> None:
        """Takes figures as they are; all of one step make one line, which waits for the next step's."""
        if not self._writes:
            return
        for name, value in values.items():
            self._show(summary.scalar(name, value), done)
        if self._line and self._line["step"] != done:
            self.write()
        self._line |= {"step": done, **{name: float(f"{value:.6g}") for name, value in values.items()}}

    def _show(self, shown: Summary, done: int) -> None:
        self._board.write_event(Event(wall_time=time.time(), step=done, summary=shown))

    def write(self) -> None:
        """Writes the line that waits; a checkpoint of its step must not be on disk before it."""
        if self._writes and self._line:
            self._lines.write(json.dumps(self._line) + "\n")
            self._lines.flush()
            self._board.flush()
            self._line = {}

    def pictures(self, done: int, folder: Path) -> None:
        """Adds every PNG of a folder to TensorBoard."""
        if self._writes:
            for path in sorted(folder.glob("*.png")):
                picture = np.asarray(Image.open(path).convert("RGB"))
                self._show(summary.image(path.stem, picture, dataformats="HWC"), done)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._writes:
            tqdm.write(line)

    def close(self, done: int, meters: Meters) -> None:
        """Writes what is left and closes the files."""
        self.flush(done, meters)
        self._bar.close()
        if self._writes:
            self.write()
            self._board.close()
            self._lines.close()
