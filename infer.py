"""A talking video: ``python infer.py --image me.png --audio hi.wav --out me.mp4``; --help lists the rest."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from tm_jax.errors import InputError
from tm_jax.flags import parse


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Make a character talk with the given sound."""

    image: Path
    """Picture of the character; cropped to the model's shape."""
    audio: str
    """Any sound or video file, or - for raw 16-bit little-endian 16 kHz mono on standard input."""
    out: Path
    """The mp4 to write."""
    weights: Path = Path(__file__).parent / "tm_jax" / "weights"
    """Folder with vae.safetensors and student.safetensors."""
    mode: Literal["auto", "speak", "listen"] = "auto"
    """auto: voice activity decides when the character speaks."""
    listen: str = ""
    """Seconds in which the character listens, like 3.0-5.0,8-9."""
    seed: int = 0
    """Seed of the noise; the same seed gives the same video."""
    frames_out: Path | None = None
    """Also write a contact sheet of the video here (png)."""


def main() -> int:
    """Checks all that is given, then streams; returns the exit status."""
    try:
        arguments = parse(Arguments, prog="infer.py")
        # Importing JAX takes seconds: a mistyped flag is answered before.
        from tm_jax.streaming.session import make_video

        print(make_video(**vars(arguments)))
    except InputError as error:
        print(f"infer.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("infer.py: stopped; what was made so far is in the file.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
