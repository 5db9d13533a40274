"""One long stream of each style asked for: does it stay the same from the first minute to the last?"""

import dataclasses
from pathlib import Path

from tqdm import tqdm

from tm_jax.data.puppets.identity import STYLES
from tm_jax.data.puppets.world import PuppetWorld, frame_count
from tm_jax.evaluation import comparison, pictures
from tm_jax.evaluation.drift import by_minute, drift, flatness
from tm_jax.evaluation.report import Figure
from tm_jax.evaluation.streams import StreamReport, run_stream, vae_identity_error
from tm_jax.evaluation.systems import Systems


def drift_report(arguments, systems: Systems, out: Path) -> tuple[list[Figure], dict]:
    """One long stream of each of ``arguments.styles``."""
    world = PuppetWorld(seed=arguments.seed, split="heldout", size=arguments.size)
    seconds = frame_count(60 * arguments.minutes) / 25
    streamer = systems.streamer(arguments.student)
    figures, reports = [], {}
    for style in arguments.styles:
        # The world's characters take the styles in turn.
        index = STYLES.index(style)
        with tqdm(total=round(seconds), desc=f"stream: {style}", unit="s", leave=False) as bar:
            advance = lambda done, bar=bar: bar.update(round(done) - bar.n)
            report = run_stream(
                streamer, systems.reader, world, index, seconds, systems.encoder, progress=advance
            )
        reports[style] = report
        ceiling = vae_identity_error(systems.vae, systems.reader, world, index, systems.encoder)
        figures += comparison.drift_figures(f"{style} stream", drift(report.minutes), ceiling)
        figures += _flatness_figures(style, report)
    pictures.minutes(out / "minutes.png", {style: report.minutes for style, report in reports.items()})
    details = {style: [dataclasses.asdict(m) for m in report.minutes] for style, report in reports.items()}
    costs = {
        style: {
            "chunk_seconds": by_minute(report.chunk_seconds, report.stamps),
            "resident_mib": [resident / 2**20 for resident in by_minute(report.chunk_memory, report.stamps)],
        }
        for style, report in reports.items()
    }
    return figures, {"minutes": details, "costs": costs}


def _flatness_figures(style: str, report: StreamReport) -> list[Figure]:
    note = "last minute : first, median of chunks"
    return [
        Figure(
            f"{style} stream: time per chunk",
            flatness(report.chunk_seconds, report.stamps),
            most=1.05,
            note=note,
        ),
        Figure(f"{style} stream: memory", flatness(report.chunk_memory, report.stamps), most=1.02, note=note),
    ]
