"""A talking video: ``python infer.py --image me.png --audio hi.wav --out me.mp4``; --help lists the rest."""

import dataclasses
import functools
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tm_jax.command import run
from tm_jax.errors import InputError
from tm_jax.flags import ShippedPath, parse

_PARTS = ("prompt", "size", "wan", "speech")
"""Flags of what the JAX backend takes from elsewhere."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Make a character talk with the given sound."""

    image: Path
    """Picture of the character; cropped to the model's shape."""
    audio: str
    """Any sound or video file, or - for standard input: a file that plays from its beginning, or raw 16-bit
    little-endian 16 kHz mono."""
    out: Path
    """The mp4 to write."""
    weights: ShippedPath = Path(__file__).parent / "tm_jax" / "weights"
    """Folder with vae.safetensors and student.safetensors; for --backend torch an export."""
    mode: Literal["auto", "speak", "listen"] = "auto"
    """auto: voice activity decides when the character speaks."""
    listen: str = ""
    """Seconds in which the character listens, like 3.0-5.0,8-9."""
    seed: int = 0
    """Seed of the noise; the same seed gives the same video."""
    steps: int | None = None
    """Denoising steps of a chunk (default: those that the student was distilled for).  More are slower, and
    give the shipped student's picture more detail."""
    frames_out: Path | None = None
    """Also write a contact sheet of the video here (png)."""
    face: str = ""
    """Where the face is: auto, none, or y0,x0,y1,x1 in pixels or fractions of the picture.  The crop is laid
    round it, and only it moves; without one the middle is taken, and all of it may move (default: auto, but
    students not born from Wan move all of it, and leave a picture as it is whose face is in the middle)."""
    prompt: str = ""
    """What the video shows: a text, or a file that python -m tm_jax.pretrained embed-prompt wrote (default:
    prompt.safetensors beside the weights).  A text without its file loads the text encoder."""
    size: str = ""
    """Height and width of the video, like 512 or 480x832 (default: the model's own, 512 for Wan's)."""
    wan: str = ""
    """Folder or Hub id of Wan's pipeline: VAE, picture and text encoder, where the weights lack them."""
    speech: str = "facebook/wav2vec2-base-960h"
    """Folder or Hub id of wav2vec2, for a student that hears by it."""
    backend: Literal["jax", "torch"] = "jax"
    """torch streams from an export (--weights), which brings its own prompt, size and encoders."""
    dit_devices: str = ""
    """Where the transformer runs, like cuda:0, or cuda:0-3 for several devices that share it, which JAX can
    (default: the first device)."""
    vae_devices: str = ""
    """Where the VAE runs, like cuda:1, or cuda:4-7 for several devices that share a picture's rows, which JAX
    can (default: where the transformer runs; for students born from Wan a second device, if there is one)."""

    def __post_init__(self):
        parts = (field for field in dataclasses.fields(self) if field.name in _PARTS)
        given = [field.name for field in parts if getattr(self, field.name) != field.default]
        if self.backend == "torch" and given:
            raise InputError(
                f"--{given[0]} is for the JAX backend: an export brings its own, so leave it out."
            )


def loader(arguments: Arguments) -> Callable[[], Any]:
    """What loads the engine of the backend that was chosen.

    Raises:
        ModuleNotFoundError: its framework is not installed.
        InputError: a flag of it is malformed.
    """
    both = {
        "dit_device": arguments.dit_devices or None,
        "vae_device": arguments.vae_devices or None,
        "steps": arguments.steps,
    }
    # Importing a framework takes seconds, and only one of them need be installed.
    if arguments.backend == "torch":
        from tm_jax.torch_runtime.engine import load_engine

        return functools.partial(load_engine, arguments.weights, **both)
    from tm_jax.streaming.parts import load_engine, parse_size

    parts = {name: getattr(arguments, name) for name in _PARTS}
    parts["size"] = parse_size(arguments.size) if arguments.size else None
    return functools.partial(load_engine, arguments.weights, **parts, **both)


def main() -> int:
    """Makes the video that the command line asks for; returns the exit status."""
    return run("infer.py", _infer, stopped="what was made so far is in the file")


def _infer() -> None:
    """Checks all that is given, then streams."""
    arguments = parse(Arguments, prog="infer.py")
    # So does importing the media libraries: a mistyped flag is answered before.
    from tm_jax.streaming.make_video import make_video

    own = ("image", "audio", "out", "mode", "listen", "seed", "frames_out", "face")
    print(make_video(**{name: getattr(arguments, name) for name in own}, load_engine=loader(arguments)))


if __name__ == "__main__":
    # A program that is asked to end finishes its file, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
