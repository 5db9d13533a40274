"""Lip-sync of one video: python -m tm_jax.evaluation.watch --video talk.mp4 --truth speech.json."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from tm_jax.errors import InputError
from tm_jax.flags import ShippedPath, parse

SHIFT = 50
"""Speaking frames by which the control's truth is turned: two seconds."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure how well the mouth of a drawn character follows a speech whose mouth opening is known."""

    video: Path
    """The video, at 25 frames a second."""
    truth: Path
    """The speech's true opening, as python -m tm_jax.data.puppets --speech writes it."""
    reader: ShippedPath = Path(__file__).parent.parent / "weights" / "reader.safetensors"
    """Weights of the reader."""


def read_frames(path: Path) -> np.ndarray:
    """All frames of a video, uint8 [t, y, x, 3].

    Raises:
        InputError: the file has no readable video.
    """
    import av

    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (OSError, IndexError, av.error.FFmpegError) as error:
        raise InputError(f"--video {path} cannot be read as a video ({error}): give an mp4.") from error
    if not frames:
        raise InputError(f"--video {path} has no frames.")
    return np.stack(frames)


def read_truth(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Opening and mode of every frame.

    Raises:
        InputError: the file is not what ``--speech`` writes.
    """
    try:
        told = json.loads(path.read_text())
        opening, mode = np.asarray(told["opening"], np.float64), np.asarray(told["mode"], np.int32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--truth {path} has no opening and mode of every frame ({error!r}): "
            "python -m tm_jax.data.puppets --speech NAME writes such a file."
        ) from error
    return opening, mode


def watch(arguments: Arguments) -> str:
    """One line: lip-sync, its control and its offset."""
    opening, mode = read_truth(arguments.truth)
    frames = read_frames(arguments.video)
    # Importing JAX takes seconds: a wrong file is answered before.
    from tm_jax.evaluation.lip_sync import lip_sync
    from tm_jax.evaluation.reader import Reader, ReaderConfig, read
    from tm_jax.evaluation.statistics import pearson
    from tm_jax.pretrained.weights import load_model

    count = min(len(frames), len(opening))
    reader = load_model(arguments.reader, Reader, ReaderConfig)
    seen = read(reader, frames[None, :count]).track("opening")
    opening, mode = opening[None, :count], mode[None, :count]
    sync = lip_sync(seen, opening, mode)
    speaking = mode[0] == 1
    turned = pearson(seen[0, speaking], np.roll(opening[0, speaking], SHIFT))
    return (
        f"lip-sync {sync.correlation.mean:.2f} over {int(mode.sum())} speaking frames, "
        f"{sync.offset:+.0f} frames late; against what was said 2 s before {turned:.2f}"
    )


def main() -> int:
    """Prints the line; returns the exit status."""
    try:
        print(watch(parse(Arguments, prog="python -m tm_jax.evaluation.watch")))
    except InputError as error:
        print(f"watch: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
