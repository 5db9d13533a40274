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
from tensorboardX import SummaryWriter
from tqdm import tqdm


def not_finite(metrics: dict[str, float]) -> list[str]:
    """Names of the metrics that are NaN or infinite."""
    return [name for name, value in metrics.items() if not math.isfinite(value)]


class RunLog:
    """Averages the steps' metrics between two lines of the log, and shows the latest in the bar."""

    def __init__(self, folder: Path, *, name: str, start: int, steps: int, every: int):
        self.every = every
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._since = (start, time.perf_counter())
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
            self._board = SummaryWriter(str(folder))
            self._lines = (folder / "metrics.jsonl").open("a")

    def step(self, done: int, metrics: dict[str, float]) -> None:
        """Takes the metrics of the step that made `done` steps in all."""
        for name, value in metrics.items():
            self._sums[name] += value
            self._counts[name] += 1
        self._bar.update(done - self._bar.n)
        if "loss" in metrics:
            self._bar.set_postfix_str(f"loss {metrics['loss']:.4g}", refresh=False)
        if done % self.every == 0:
            self.flush(done)

    def flush(self, done: int) -> None:
        """Writes the means since the last line."""
        if not self._counts:
            return
        before, then = self._since
        now = time.perf_counter()
        means = {name: self._sums[name] / count for name, count in self._counts.items()}
        means["steps_per_second"] = (done - before) / max(now - then, 1e-9)
        self._since = (done, now)
        self._sums.clear()
        self._counts.clear()
        self.scalars(done, means)

    def scalars(self, done: int, values: dict[str, float]) -> None:
        """Writes figures as they are."""
        if not self._writes:
            return
        for name, value in values.items():
            self._board.add_scalar(name, value, done)
        line = {"step": done, **{name: float(f"{value:.6g}") for name, value in values.items()}}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()

    def pictures(self, done: int, folder: Path) -> None:
        """Adds every PNG of a folder to TensorBoard."""
        if self._writes:
            for path in sorted(folder.glob("*.png")):
                picture = np.asarray(Image.open(path).convert("RGB"))
                self._board.add_image(path.stem, picture, done, dataformats="HWC")

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._writes:
            tqdm.write(line)

    def close(self, done: int) -> None:
        """Writes what is left and closes the files."""
        self.flush(done)
        self._bar.close()
        if self._writes:
            self._board.close()
            self._lines.close()
