"""A caller's picture: bounded before it is decoded, then framed as `infer.py` frames one."""

import io
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from tm_jax.errors import InputError
from tm_jax.media.face import framed
from tm_jax.media.picture import fit, read_picture
from tm_jax.serve.limits import MOST_PICTURE_PIXELS
from tm_jax.streaming.engine import StreamEngine

FACELESS = "No face was found in this picture: its middle is taken, and it may not talk well."


def portrait(path: Path, engine: StreamEngine) -> tuple[np.ndarray, tuple | None, list[str]]:
    """A picture of the model's size, the box in which it moves, and what its owner should know of it.

    Raises:
      InputError: the file is no picture that can be used.
    """
    photo = read_picture(path, notes := [])
    framing = framed(np.asarray(photo), "", engine.size, all_moves=not engine.has_picture_encoder)
    if framing.face is None and framing.note:
        notes.append(FACELESS)
    return fit(photo, engine.size, framing.crop), framing.moving, notes


def png(picture: np.ndarray) -> bytes:
    """A picture as the page shows it."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    return data.getvalue()


def uploaded(data: bytes, engine: StreamEngine) -> tuple[np.ndarray, tuple | None, list[str]]:
    """The same of a picture's bytes, which came from outside; no sentence names a file of this machine.

    Raises:
      InputError: no picture, or one of too many pixels.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as header:
            width, height = header.size
    except Exception:
        raise InputError("That is no picture: choose a PNG or JPEG.") from None
    if width * height > MOST_PICTURE_PIXELS:
        raise InputError(f"The picture has {width}×{height} pixels: scale it down.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        path.write_bytes(data)
        try:
            picture, box, notes = portrait(path, engine)
        except InputError as error:
            raise InputError(str(error).replace(f" {path}", "")) from None
        return picture, box, [note.replace(f" {path}", "") for note in notes]
