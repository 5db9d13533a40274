"""The table and the timeline of ``bench serving``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEADS = (
    "dtype", "chunk", "steps", "DiT on", "VAE on", "DiT ms", "copy ms", "VAE ms", "overlap", "p50 ms",
    "p95 ms", "p99 ms", "fps", "× real time", "first cold s", "first warm s", "first live s", "speech live s",
    "GB", "TFLOP", "TFLOP/s", "of peak",
)  # fmt: skip


def table(figures: Sequence[Any]) -> str:
    """One Markdown row for each setting."""
    rows = [HEADS, tuple("-" * len(head) for head in HEADS), *map(_row, figures)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(figure: Any) -> tuple[str, ...]:
    optional = lambda value, form: "–" if value is None else format(value, form)
    memory = ", ".join(f"{place} {value:.1f}" for place, value in figure.memory_gb.items())
    return (
        figure.dtype,
        str(figure.chunk),
        str(figure.steps),
        figure.dit_device,
        figure.vae_device,
        f"{figure.dit_ms:.1f}",
        f"{figure.copy_ms:.2f}",
        f"{figure.vae_ms:.1f}",
        f"{figure.overlap:.2f}",
        *(f"{value:.1f}" for value in figure.interval_ms),
        f"{figure.fps:.1f}",
        f"{figure.real_time:.2f}",
        f"{figure.first_cold:.2f}",
        f"{figure.first_warm:.2f}",
        optional(figure.first_live, ".2f"),
        optional(figure.speech_live, ".2f"),
        memory,
        f"{figure.tflop_dit + figure.tflop_vae:.3g}",
        f"{figure.tflops:.3g}",
        optional(figure.peak_share, ".0%"),
    )


def draw_timeline(figures: Sequence[Any], path: Path) -> None:
    """When the stages of the first chunks ran, one panel for each setting."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    made, axes = plt.subplots(len(figures), 1, figsize=(9, 1.2 + 1.3 * len(figures)), squeeze=False)
    for figure, axis in zip(figures, axes[:, 0], strict=True):
        for index, span in enumerate(figure.spans):
            colour = f"C{index % 10}"
            for row, (begin, end) in enumerate(((span.dit_from, span.dit_to), (span.vae_from, span.vae_to))):
                axis.broken_barh([(begin, end - begin)], (0.6 - row, 0.8), color=colour)
                axis.text((begin + end) / 2, 1 - row, str(index), ha="center", va="center", fontsize=7)
        axis.set_yticks([1, 0], [f"DiT, {figure.dit_device}", f"VAE, {figure.vae_device}"], fontsize=7)
        axis.set_title(f"{figure.dtype}, chunks of {figure.chunk}, {figure.steps} steps", fontsize=8)
    axes[-1, 0].set_xlabel("seconds since the stream began")
    made.tight_layout()
    made.savefig(path, dpi=120)
    plt.close(made)
