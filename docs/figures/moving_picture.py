"""Makes the README's moving picture of a video.

PYTHONPATH=. python docs/figures/moving_picture.py out/demo.mp4 docs/figures/demo.webp
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tm_jax.media.video import read_frames
from tm_jax.rates import FRAMES_PER_SECOND

SIDE, MOST_BYTES = 256, 2_000_000


def main(video: str, out: str) -> None:
    """Every frame of the video, twice its size and without sound; refuses to grow beyond 2 MB."""
    frames = [
        Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for frame in read_frames(video)
    ]
    # Durations are whole milliseconds.
    edges = np.round(np.arange(len(frames) + 1) * 1000 / FRAMES_PER_SECOND)
    frames[0].save(
        out,
        save_all=True,
        append_images=frames[1:],
        duration=np.diff(edges).astype(int).tolist(),
        loop=0,
        quality=70,
        method=6,
    )
    size = Path(out).stat().st_size
    if size > MOST_BYTES:
        sys.exit(f"{out} has {size} bytes: give a shorter video.")
    print(f"{out}: {len(frames)} frames, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
