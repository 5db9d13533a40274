"""Lip-sync of one video: python -m tm_jax.evaluation.watch --video talk.mp4 --truth speech.json

Nobody knows the true opening of a recorded human's mouth.  For such a sound (``--audio speech.wav``) the
mouth that the viseme encoder hears takes the truth's place: the figure then says whether the character
follows what was heard, not whether it was heard rightly.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from tm_jax.command import run
from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS, ShippedPath, parse

SHIFT = 50
"""Speaking frames by which the control's truth is turned: two seconds."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure how well the mouth of a drawn character follows a speech."""

    video: Path
    """The video, at 25 frames a second."""
    truth: Path | None = None
    """The speech's true opening, as python -m tm_jax.data.puppets --speech writes it."""
    audio: Path | None = None
    """Instead of the truth: the sound, from which the viseme encoder hears an opening."""
    visemes: ShippedPath = WEIGHTS / "visemes.safetensors"
    """Weights of the viseme encoder."""
    reader: ShippedPath = WEIGHTS / "reader.safetensors"
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
        truth = json.loads(path.read_text("utf-8"))
        opening, mode = np.asarray(truth["opening"], np.float64), np.asarray(truth["mode"], np.int32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--truth {path} has no opening and mode of every frame ({error!r}): "
            "python -m tm_jax.data.puppets --speech NAME writes such a file."
        ) from error
    if opening.ndim != 1 or opening.shape != mode.shape or not np.isfinite(opening).all():
        raise InputError(
            f"--truth {path} has no opening and mode of every frame: "
            "python -m tm_jax.data.puppets --speech NAME writes such a file."
        )
    return opening, mode


def viseme_opening(path: Path, visemes: Path) -> tuple[np.ndarray, np.ndarray]:
    """Opening that the viseme encoder hears, and mode by voice activity, of every frame at 25 fps.

    Raises:
        InputError: the file has no readable sound, or the weights are missing.
    """
    import jax.numpy as jnp

    from tm_jax.audio.voice_activity import VoiceActivity
    from tm_jax.media.sound import read_audio
    from tm_jax.models.viseme_config import MOUTH
    from tm_jax.pretrained.front_ends import load_front_end
    from tm_jax.rates import SAMPLES_PER_TOKEN

    front_end = load_front_end(visemes)
    sound = np.concatenate([np.zeros(0, np.float32), *read_audio(path).blocks])
    # The moment that the encoder tells last, having heard the most of what follows it.
    offsets = front_end.encoder.config.offsets
    late = -min(offsets)
    tokens = front_end.tokens(np.pad(sound, (0, late * SAMPLES_PER_TOKEN)))
    mouths = front_end.encoder.mouths(jnp.asarray(tokens[None]))
    opening = np.asarray(mouths)[0, late:, offsets.index(-late), MOUTH.index("opening")]
    speaking = VoiceActivity().push(np.pad(sound, (0, -len(sound) % (2 * SAMPLES_PER_TOKEN))))
    frames = slice(0, len(speaking), 2)
    return opening[frames], speaking[frames].astype(np.int32)


def watch(arguments: Arguments) -> str:
    """One line: lip-sync, its control and its offset."""
    if (arguments.truth is None) == (arguments.audio is None):
        raise InputError("Give one of --truth and --audio: what the mouth is compared with.")
    truth = None if arguments.truth is None else read_truth(arguments.truth)
    frames = read_frames(arguments.video)
    # Importing JAX takes seconds: a wrong file is answered before.
    from tm_jax.evaluation.lip_sync import lip_sync
    from tm_jax.evaluation.reader import Reader, ReaderConfig, read
    from tm_jax.evaluation.statistics import pearson
    from tm_jax.pretrained.weights import load_model

    opening, mode = truth or viseme_opening(arguments.audio, arguments.visemes)
    count = min(len(frames), len(opening))
    if (speaks := int((mode[:count] == 1).sum())) < SHIFT:
        raise InputError(
            f"Video and sound share {count} frames, and in {speaks} of them somebody speaks: "
            f"give at least {SHIFT}, two seconds of speech."
        )
    reader = load_model(arguments.reader, Reader, ReaderConfig)
    seen = read(reader, frames[None, :count]).track("opening")
    opening, mode = opening[None, :count], mode[None, :count]
    sync = lip_sync(seen, opening, mode)
    speaking = mode[0] == 1
    turned = pearson(seen[0, speaking], np.roll(opening[0, speaking], SHIFT))
    figure = "lip-sync" if truth else "correlation with the opening that is heard"
    return (
        f"{figure} {sync.correlation.mean:.2f} over {int(mode.sum())} speaking frames, "
        f"{sync.offset:+.0f} frames late; against what was said 2 s before {turned:.2f}"
    )


def main() -> int:
    """Prints the line; returns the exit status."""
    prog = "python -m tm_jax.evaluation.watch"
    return run("tm_jax.evaluation.watch", lambda: print(watch(parse(Arguments, prog=prog))))


if __name__ == "__main__":
    sys.exit(main())
