"""Draws docs/figures/causal_step.png: python docs/figures/causal_step.py

One chunk of video, from the sound that it hears to its frames, and the K/V that it reads at each step.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, FAINT, KV, NOW = "#1f2933", "#9aa5b1", "#dbeafe", "#fde68a"
OTHER = {"sound": "#e5e7eb", "vae": "#d1fae5"}
BELOW = (
    "K/V that a chunk wrote at a step is read by later chunks at that same step.  What is kept is constant\n"
    "in size: chunk 0 and chunk n-1.  The VAE decodes chunk n while the DiT denoises chunk n+1.\n"
    "Distillation rolls out this very function (training/student_clips.py)."
)
STEPS = ("step 0, σ = 1", "step 1, σ₁ = shift(½)")


def box(axes, x, y, width, height, title, file="", color="white", faint=False):
    """A rounded box with a title and the file that it stands for."""
    ink = FAINT if faint else INK
    style = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, fc=color, ec=ink, lw=1.1))
    middle = (x + width / 2, y + height / 2 + (0.13 if file else 0))
    axes.text(*middle, title, ha="center", va="center", fontsize=9, color=ink)
    if file:
        axes.text(
            middle[0],
            middle[1] - 0.3,
            file,
            ha="center",
            va="center",
            fontsize=7,
            color=ink,
            family="monospace",
        )


def arrow(axes, start, end, text="", bend=0.0, color=INK, at=0.5, shift=(0, 0.1)):
    """An arrow, and what flows along it."""
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=11, lw=1.2, color=color,
            connectionstyle=f"arc3,rad={bend}", shrinkA=1, shrinkB=1,
        )
    )  # fmt: skip
    if text:
        x = start[0] + at * (end[0] - start[0]) + shift[0]
        y = start[1] + at * (end[1] - start[1]) + shift[1]
        axes.text(x, y, text, fontsize=7.5, color=color, ha="center", va="bottom")


def main() -> None:
    """Writes the picture beside this file."""
    figure, axes = plt.subplots(figsize=(12, 6.2), dpi=130)
    axes.set_xlim(0, 15.2)
    axes.set_ylim(-0.55, 7.3)
    axes.axis("off")
    rows = (4.35, 2.1)
    chunks = ((2.2, "chunk 0", "RoPE 0-2"), (4.9, "chunk n-1", "RoPE 15-17"), (8.1, "chunk n", "RoPE 18-20"))
    for (x, name, place), color in zip(chunks, (KV, KV, NOW), strict=True):
        axes.text(x + 0.85, 6.05, name, ha="center", fontsize=11, color=INK, weight="bold")
        axes.text(x + 0.85, 5.72, f"read at {place}", ha="center", fontsize=8, color=INK)
        for y in rows:
            last = name == "chunk n"
            title = "DiT" if last else "K/V kept"
            file = "models/dit.py" if last else "nn/cache.py"
            box(axes, x, y, 1.7, 0.95, title, file, color)
    axes.text(4.4, rows[0] + 0.45, "…", fontsize=16, ha="center", va="center", color=INK)
    axes.text(4.4, rows[1] + 0.45, "…", fontsize=16, ha="center", va="center", color=INK)
    for y, step in zip(rows, STEPS, strict=True):
        axes.text(0.05, y + 0.47, step, fontsize=9, va="center", color=INK)
        arrow(axes, (6.62, y + 0.6), (8.08, y + 0.6), "previous", shift=(0, 0.04))
        arrow(axes, (3.05, y - 0.03), (8.3, y - 0.03), "first", bend=0.16, at=0.45, shift=(0, -0.62))
    arrow(axes, (8.95, rows[0] - 0.05), (8.95, rows[1] + 1.0), "")
    axes.text(9.05, 3.6, "x̂, noised again to σ₁\ndiffusion/noise.py", fontsize=7.5, va="center", color=INK)
    box(axes, 11.9, 5.95, 3.1, 0.95, "sound → tokens → windows", "audio/chunking.py", OTHER["sound"])
    box(axes, 11.9, 4.35, 3.1, 0.95, "reference, text, picture K/V", "rollout.make_reference", OTHER["sound"])
    arrow(axes, (11.88, 6.2), (9.83, 5.2), "audio of its own frames", bend=0.05, shift=(1.0, -0.42), at=0.3)
    arrow(axes, (11.88, 4.8), (9.83, 4.8), "once a stream", shift=(0, 0.04))
    box(axes, 11.9, 2.1, 3.1, 0.95, "VAE decodes, as a stream", "models/vae.py", OTHER["vae"])
    arrow(axes, (9.83, 2.57), (11.88, 2.57), "clean latents", shift=(0, 0.04))
    box(axes, 11.9, 0.25, 3.1, 0.95, "frames with their sound", "streaming/", OTHER["vae"])
    arrow(axes, (13.45, 2.07), (13.45, 1.23), "12 frames", shift=(0.55, -0.07))
    axes.text(
        0.05,
        6.85,
        "The causal step: diffusion/rollout.py, generate_chunk",
        fontsize=13,
        color=INK,
        weight="bold",
    )
    axes.text(0.05, -0.4, BELOW, fontsize=8.5, color=INK)
    figure.savefig(Path(__file__).with_suffix(".png"), bbox_inches="tight")


if __name__ == "__main__":
    main()
