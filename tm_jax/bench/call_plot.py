"""A recorded call as a picture: the first turns in detail, then what the minutes brought."""

import itertools
from pathlib import Path

import numpy as np

from tm_jax.bench.call_figures import Answer, Heard, lip_sync_of
from tm_jax.bench.call_recording import Recording
from tm_jax.errors import InputError

DETAIL = 45.0
"""Seconds that are shown in detail."""
COLOURS = {"listening": "#d5e8d4", "thinking": "#fff2cc", "speaking": "#dae8fc", "idle": "white"}


def plot(
    recording: Recording,
    opening: np.ndarray,
    heard: list[Heard],
    answers: list[Answer],
    memory: list[dict],
    out: Path,
) -> None:
    """Draws to a PNG.

    Raises:
      InputError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError("The plot needs matplotlib: pip install matplotlib, or leave --out away.") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    begin = recording.frame_times[0]
    figure, axes = plt.subplots(5, 1, figsize=(12, 13), layout="constrained")
    talk, rate, skew, sync, held = axes
    for sound, name, place in ((recording.microphone, "user", 2.2), (recording.heard, "character", 1.1)):
        levels = sound.levels(0.04)
        talk.plot(levels[:, 0] - begin, place + levels[:, 1] / levels[:, 1].max(), lw=0.8, label=name)
    talk.plot(recording.frame_times - begin, opening, lw=0.8, label="mouth")
    states = [*recording.states, (recording.frame_times[-1], "idle")]
    for (since, state), (until, _) in itertools.pairwise(states):
        talk.axvspan(since - begin, until - begin, color=COLOURS.get(state, "white"), lw=0)
    talk.set(
        xlim=(0, DETAIL), title="the first turns; green listening, yellow thinking, blue speaking", yticks=[]
    )
    talk.legend(loc="upper right", ncols=3)
    minutes = lambda times: (np.asarray(times) - begin) / 60
    gaps = np.diff(recording.frame_times)
    rate.plot(minutes(recording.frame_times[1:]), 1000 * gaps, lw=0.3)
    rate.set(title="time between frames, ms", ylim=(0, max(160, 1100 * gaps.max())))
    skew.plot(minutes(recording.skew[:, 0]), 25 * recording.skew[:, 1], lw=0.6)
    skew.axhline(0, color="grey", lw=0.5)
    skew.set(title="sound ahead of picture, frames, by the browser's account")
    for one in heard:
        sync.plot(minutes(one.start), lip_sync_of(one, answers), "o", ms=4, color=f"C{one.which}")
    sync.set(title="lip-sync of each answer", ylim=(0, 1))
    held.plot([m["seconds"] / 60 for m in memory], [m["mebibytes"] for m in memory], "o-", ms=3)
    held.set(title="the server's memory, MiB", xlabel="minutes", ylim=(0, None))
    for axis in (rate, skew, sync, held):
        axis.set_xlim(0, minutes(recording.frame_times[-1]))
    figure.savefig(out, dpi=70)
    plt.close(figure)
