"""Figures with their targets: a table to read, JSON to keep."""

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path

from tm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured number and what it must reach."""

    name: str
    value: float
    least: float | None = None
    """The value must be at least this."""
    most: float | None = None
    """The value must be at most this."""
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    """Upper end of the 95 % interval."""
    note: str = ""
    """What it is compared with, or how it was taken."""

    @property
    def passed(self) -> bool | None:
        """Whether the target is met; None without a target; a nan never passes."""
        if self.least is None and self.most is None:
            return None
        above = self.least is None or self.value >= self.least
        below = self.most is None or self.value <= self.most
        return bool(above and below and not math.isnan(self.value))

    @property
    def target(self) -> str:
        """The target in words."""
        if self.least is not None and self.most is not None:
            return f"{self.least:.4g} … {self.most:.4g}"
        if self.least is not None:
            return f"≥ {self.least:.4g}"
        return f"≤ {self.most:.4g}" if self.most is not None else ""


def within(name: str, value: float, share: float, note: str = "against real") -> Figure:
    """A ratio that must lie within ``share`` of 1."""
    return Figure(name, value, least=1 - share, most=1 + share, note=note)


def table(figures: Iterable[Figure]) -> str:
    """The figures as aligned text."""
    rows = [("figure", "value", "95 %", "target", "", "note")]
    for figure in figures:
        interval = "" if figure.low is None else f"{figure.low:.3f} … {figure.high:.3f}"
        verdict = {None: "", True: "pass", False: "FAIL"}[figure.passed]
        rows.append((figure.name, f"{figure.value:.4g}", interval, figure.target, verdict, figure.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def write_json(path: Path, figures: Iterable[Figure], about: dict, details: dict | None = None) -> None:
    """Write figures, what they were measured on, and any curves behind them."""

    def finite(node):
        if isinstance(node, dict):
            return {str(key): finite(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [finite(value) for value in node]
        if isinstance(node, float) and not math.isfinite(node):
            return None
        return node

    rows = [
        {**dataclasses.asdict(figure), "target": figure.target, "passed": figure.passed} for figure in figures
    ]
    text = json.dumps(finite({"about": about, "figures": rows, "details": details or {}}), indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def output_directory(path: Path) -> Path:
    """Make the directory for a report, or say in one sentence why it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"the report cannot be written to {path} ({error.strerror}): choose another --out directory"
        ) from None
    return path
