"""What was kept and what was dropped, and why: report.json, report.txt and report.png."""

import base64
import dataclasses
import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from tm_jax.data.prepare.pieces import REASONS
from tm_jax.data.prepare.shards import partial_of, publish, write_json
from tm_jax.media.files import shown

LISTED = 40
"""Dropped pieces that the table names; report.json holds all."""
COLUMNS = 6
"""Pictures a row of report.png."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What all processes have done so far."""

    kept: int
    """Clips."""
    videos: int
    """Videos looked at."""
    shards: int
    """Shards that are done."""
    shards_wanted: int
    """Shards of the whole list."""
    text: str
    """The table."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do, for any process."""
        return self.shards == self.shards_wanted


def make_report(out: Path, done: list[dict[str, Any]], wanted: int) -> Report:
    """Write the three files from the shards' own reports."""
    videos = [video for report in done for video in report["videos"]]
    about = lambda video: {"source": video["source"], "split": video["split"]}
    clips = [{**about(video), **clip} for video in videos for clip in video["clips"]]
    totals = {reason or "kept": _total(clips, reason) for reason in (None, *REASONS)}
    totals = {name: total for name, total in totals.items() if total["clips"] or name == "kept"}
    text = _table(out, videos, clips, totals, f"{len(done)} of {wanted} shards done")
    plain = [{**video, "clips": [_without(clip, "thumbnail") for clip in video["clips"]]} for video in videos]
    write_json(
        out / "report.json",
        {"shards": {"done": len(done), "wanted": wanted}, "totals": totals, "videos": plain},
    )
    _write(out / "report.txt", (text + "\n").encode(errors="backslashreplace"))
    if clips:
        _write(out / "report.png", _picture(clips, totals))
    return Report(totals["kept"]["clips"], len(videos), len(done), wanted, text)


def _without(entry: dict, name: str) -> dict:
    return {key: value for key, value in entry.items() if key != name}


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _total(clips: list[dict], reason: str | None) -> dict[str, Any]:
    seconds = [clip["seconds"] for clip in clips if clip["reason"] == reason]
    return {"clips": len(seconds), "seconds": round(float(sum(seconds)), 2)}


def _write(path: Path, content: bytes) -> None:
    partial = partial_of(path)
    partial.write_bytes(content)
    publish(partial, path)


def _table(out: Path, videos: list[dict], clips: list[dict], totals: dict[str, dict], state: str) -> str:
    seconds = sum(clip["seconds"] for clip in clips)
    heldout = [clip for clip in clips if clip["reason"] is None and clip["split"] == "heldout"]
    row = lambda name, count, time, why="": (
        f"{name:<22}{count:>7}{_clock(time):>11}{time / max(seconds, 1e-9):>8.0%}   {why}".rstrip()
    )
    lines = [
        f"{shown(out)}: {len(videos)} videos, {state}",
        "",
        f"{'':22}{'clips':>7}{'h:mm:ss':>11}{'share':>8}",
    ]
    lines.append(row("kept", totals["kept"]["clips"], totals["kept"]["seconds"]))
    if heldout:
        lines.append(row("  held out of these", len(heldout), sum(clip["seconds"] for clip in heldout)))
    for name, why in REASONS.items():
        if name in totals:
            lines.append(row(f"dropped: {name}", totals[name]["clips"], totals[name]["seconds"], why))
    lost = [clip for clip in clips if clip["reason"] is not None]
    if lost:
        lines += ["", "Dropped, from which second on and for how long:"]
    for clip in lost[:LISTED]:
        # The sentence about an unreadable video names it already.
        place = f"{clip['start']:>8.1f} {clip['seconds']:>7.1f} s"
        line = clip["detail"] if clip["reason"] == "unreadable" else f"{clip['source']}: {clip['detail']}"
        lines.append(f"{place}  {clip['reason']:<14}{line.removesuffix(': ')}")
    if len(lost) > LISTED:
        lines.append(f"… and {len(lost) - LISTED} more in report.json.")
    return "\n".join(lines)


def _picture(clips: list[dict], totals: dict[str, dict]) -> bytes:
    """A bar of the time by fate above a row of pictures for each."""
    shown = {
        name: [c for c in clips if (c["reason"] or "kept") == name and "thumbnail" in c][:COLUMNS]
        for name in totals
    }
    shown = {name: row for name, row in shown.items() if row}
    palette = matplotlib.colormaps["tab20"]
    colours = {"kept": palette(4)} | {name: palette(6 + 2 * i) for i, name in enumerate(REASONS) if i < 4}
    colours |= {name: palette(2 * i - 1) for i, name in enumerate(REASONS) if i >= 4}
    figure = Figure(figsize=(2.1 * COLUMNS, 1.6 + 1.5 * len(shown)), layout="constrained")
    grid = figure.add_gridspec(1 + len(shown), COLUMNS, height_ratios=[0.7, *[1] * len(shown)])
    axes, left = figure.add_subplot(grid[0, :]), 0.0
    for name, total in totals.items():
        label = f"{name.replace('_', ' ')} {_clock(total['seconds'])}"
        axes.barh([0], [total["seconds"]], left=left, color=colours[name], label=label)
        left += total["seconds"]
    axes.set(yticks=[], xticks=[], xlim=(0, max(left, 1e-9)))
    axes.legend(ncols=min(5, len(totals)), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    for line, (name, row) in enumerate(shown.items(), 1):
        for column in range(COLUMNS):
            axes = figure.add_subplot(grid[line, column])
            axes.axis("off")
            if column < len(row):
                clip = row[column]
                jpeg = base64.b64decode(clip["thumbnail"])
                axes.imshow(np.asarray(Image.open(io.BytesIO(jpeg))))
                note = clip["detail"] if clip["reason"] else f"{clip['seconds']:.1f} s"
                axes.set_title(f"{name.replace('_', ' ')}\n{note}" if column == 0 else note, fontsize=8)
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=90)
        return file.getvalue()
