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


def portrait(path: Path, engine: StreamEngine) -> tuple[np.ndarray, tuple | None]:
    """A picture of the model's size and the box in which it moves.

    Raises:
      InputError: the file is no picture that can be used.
    """
    return _portrait(path, engine)[:2]


def _portrait(path: Path, engine: StreamEngine) -> tuple[np.ndarray, tuple | None, bool]:
    """The same, and whether a face was found."""
    photo = read_picture(path)
    framing = framed(np.asarray(photo), "", engine.size, all_moves=not engine.has_picture_encoder)
    faceless = framing.face is None and bool(framing.note)
    return fit(photo, engine.size, framing.face), framing.moving, not faceless


def png(picture: np.ndarray) -> bytes:
    """A picture as the page shows it."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    return data.getvalue()


def uploaded(data: bytes, engine: StreamEngine) -> tuple[np.ndarray, tuple | None, bool]:
    """The same of a picture's bytes, which came from outside, and whether a face was found in it.

    Raises:
      InputError: no picture, or one of too many pixels; the sentence names no file of this machine.
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
            return _portrait(path, engine)
        except InputError as error:
            raise InputError(str(error).replace(f" {path}", "")) from None
