"""Sample videos written while a model trains: people would rather see than read."""

from pathlib import Path

import jax
import numpy as np
from PIL import Image

from tm_jax.media.pixels import to_pixels
from tm_jax.pretrained.sources import load_any
from tm_jax.types import Latents

_decode = jax.jit(lambda vae, latents: vae.decode(latents))


def contact_sheet(rows: list[np.ndarray], *, columns: int = 12) -> np.ndarray:
    """Evenly spaced frames of each video [t y x 3], one video a row, as one picture."""
    strips = []
    for video in rows:
        chosen = np.linspace(0, len(video) - 1, min(columns, len(video))).round().astype(int)
        strips.append(np.concatenate(list(video[chosen]), axis=1))
    return np.concatenate(strips, axis=0)


def write_sheet(path: Path, rows: list[np.ndarray], *, columns: int = 12) -> None:
    """A contact sheet as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(contact_sheet(rows, columns=columns)).save(path)


def write_preview(vae: str | Path, clips: dict[str, Latents | np.ndarray], stem: Path) -> None:
    """A contact sheet of decoded latents: for every clip one row of each kind, in the given order.

    The first process alone reads the VAE and writes.
    """
    if jax.process_index():
        return
    vae = load_any(vae, "vae")
    videos = {name: to_pixels(_decode(vae, latents)) for name, latents in clips.items()}
    count = len(next(iter(videos.values())))
    write_sheet(stem.with_suffix(".png"), [video[row] for row in range(count) for video in videos.values()])
