"""The report's pictures: openings asked and read, metrics beside their baselines, strips of frames."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt8

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tm_jax.evaluation.drift import Minute


def openings(
    path: Path, truth: Float[np.ndarray, "n t"], read: dict[str, np.ndarray], mode: np.ndarray, count: int = 4
) -> None:
    """Curves of a few clips: the opening asked for and what was read from each system."""
    count = min(count, len(truth))
    figure, axes = plt.subplots(count, 1, figsize=(11, 1.9 * count), sharex=True, squeeze=False)
    seconds = np.arange(truth.shape[1]) / 25
    for clip, axis in enumerate(axes[:, 0]):
        axis.fill_between(seconds, 0, 1, where=mode[clip] == 0, color="0.92", step="mid", label="listening")
        axis.plot(seconds, truth[clip], "k", lw=1.6, label="asked")
        for name, values in read.items():
            axis.plot(seconds, values[clip], lw=1, label=name)
        axis.set_ylim(-0.1, 1.1)
        axis.set_ylabel("opening")
    axes[0, 0].legend(ncols=6, fontsize=7, loc="upper right")
    axes[-1, 0].set_xlabel("seconds")
    _save(figure, path)


def bars(path: Path, values: dict[str, dict[str, float]], wanted: dict[str, tuple[float, float]]) -> None:
    """One panel a metric: a bar for each system, the target range shaded."""
    metrics = list(dict.fromkeys(metric for rows in values.values() for metric in rows))
    columns = min(4, len(metrics))
    rows = -(-len(metrics) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.4 * rows), squeeze=False)
    for axis in axes.flat[len(metrics) :]:
        axis.axis("off")
    for axis, metric in zip(axes.flat, metrics, strict=False):
        names = [name for name in values if metric in values[name]]
        heights = [values[name][metric] for name in names]
        axis.bar(range(len(names)), np.nan_to_num(heights), color=[f"C{i}" for i in range(len(names))])
        if metric in wanted:
            axis.axhspan(*wanted[metric], color="green", alpha=0.15)
        axis.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7)
        axis.set_title(metric, fontsize=9)
    _save(figure, path)


def strips(
    path: Path, rows: dict[str, Sequence[UInt8[np.ndarray, "t y x 3"]]], frames: Int[np.ndarray, " shown"]
) -> None:
    """For each clip one strip of frames from every system, under each other."""
    from PIL import Image

    clips = range(len(next(iter(rows.values()))))
    lines = [np.concatenate([rows[name][clip][t] for t in frames], axis=1) for clip in clips for name in rows]
    Image.fromarray(np.concatenate(lines)).save(path)


def minutes(path: Path, streams: dict[str, list[Minute]]) -> None:
    """How each stream changes from minute to minute, relative to its first."""
    figure, axes = plt.subplots(1, 5, figsize=(15, 2.8))
    for axis, field in zip(axes, ("identity", "sharpness", "head", "eyes", "lip_sync"), strict=True):
        for name, rows in streams.items():
            track = np.array([getattr(minute, field) for minute in rows])
            relative = track if field == "lip_sync" else track / max(track[0], 1e-12)
            axis.plot(np.arange(1, len(rows) + 1), relative, marker="o", ms=3, label=name)
        axis.set_title(field.replace("_", "-"), fontsize=9)
        axis.set_xlabel("minute")
    axes[0].legend(fontsize=7)
    _save(figure, path)


def _save(figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
