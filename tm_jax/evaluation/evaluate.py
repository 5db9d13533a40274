"""The evaluation command: what is measured, written and printed."""

import shlex
import sys

import jax

from tm_jax.config import to_json
from tm_jax.evaluation.clip_report import clip_report
from tm_jax.evaluation.drift_report import drift_report
from tm_jax.evaluation.reader import TRACKS
from tm_jax.evaluation.report import Figure, output_directory, table, write_json
from tm_jax.evaluation.systems import Systems
from tm_jax.pretrained.weights import read_header


def about(module: str, arguments) -> dict:
    """What a report was measured on: command, devices, and what trained the weights."""
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "arguments": to_json(arguments),
        "devices": [str(device) for device in jax.devices()],
        "weights": {
            name: read_header(path).meta
            for name in ("reader", "vae", "visemes", "teacher", "warmup", "student")
            if (path := getattr(arguments, name, None)) is not None and path.exists()
        },
        "tracks": list(TRACKS),
    }


def evaluate(arguments) -> list[Figure]:
    """Measure what the arguments ask for, write the report, print the table."""
    out = output_directory(arguments.out)
    systems = Systems(arguments)
    figures, details = [], {}
    if arguments.what != "drift":
        figures, details = clip_report(arguments, systems, out)
    if arguments.what in ("drift", "all"):
        more, minutes = drift_report(arguments, systems, out)
        figures, details = figures + more, details | minutes
    write_json(out / "report.json", figures, about("tm_jax.evaluation", arguments), details)
    text = table(figures)
    (out / "report.txt").write_text(text + "\n", encoding="utf-8")
    failed = [figure.name for figure in figures if figure.passed is False]
    print(text)
    print(f"\n{len(failed)} of {sum(f.passed is not None for f in figures)} targets missed; written to {out}")
    return figures
