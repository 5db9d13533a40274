"""A talking video: ``python infer.py --image me.png --audio hi.wav --out me.mp4``; --help lists the rest."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from tm_jax.errors import InputError
from tm_jax.flags import ShippedPath, parse


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Make a character talk with the given sound."""

    image: Path
    """Picture of the character; cropped to the model's shape."""
    audio: str
    """Any sound or video file, or - for raw 16-bit little-endian 16 kHz mono on standard input."""
    out: Path
    """The mp4 to write."""
    weights: ShippedPath = Path(__file__).parent / "tm_jax" / "weights"
    """Folder with vae.safetensors and student.safetensors."""
    mode: Literal["auto", "speak", "listen"] = "auto"
    """auto: voice activity decides when the character speaks."""
    listen: str = ""
    """Seconds in which the character listens, like 3.0-5.0,8-9."""
    seed: int = 0
    """Seed of the noise; the same seed gives the same video."""
    frames_out: Path | None = None
    """Also write a contact sheet of the video here (png)."""
    face: str = ""
    """Where the face is: auto, none, or y0,x0,y1,x1 in pixels or fractions of the picture (default: auto for
    students born from Wan; without a face the whole picture may move)."""
    prompt: str = ""
    """What the video shows: a text, or a file that python -m tm_jax.pretrained embed-prompt wrote (default:
    prompt.safetensors beside the weights).  A text without its file loads the text encoder."""
    size: str = ""
    """Height and width of the video, like 512 or 480x832 (default: the model's own, 512 for Wan's)."""
    wan: str = ""
    """Folder or Hub id of Wan's pipeline: VAE, picture and text encoder, where the weights lack them."""
    speech: str = "facebook/wav2vec2-base-960h"
    """Folder or Hub id of wav2vec2, for a student that hears by it."""


def main() -> int:
    """Checks all that is given, then streams; returns the exit status."""
    try:
        arguments = parse(Arguments, prog="infer.py")
        # Importing JAX takes seconds: a mistyped flag is answered before.
        from tm_jax.streaming.make_video import make_video

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
