"""The reference picture of a stream, checked where it enters."""

import dataclasses
import math
import numbers
from typing import Any

import numpy as np

from tm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Reference:
    """What an engine made of a picture: good for any number of its streams, at the same time too."""

    content: Any
    """The backend's own."""
    owner: Any
    """The backend."""


def check_picture(picture: Any, size: tuple[int, int]) -> None:
    """Refuse what is no RGB picture of (height, width).

    Raises:
      InputError: no array, not uint8, or another shape.
    """
    remedy = f"give a uint8 array [{size[0]} {size[1]} 3] of RGB, as media.picture.load_picture makes it"
    if not isinstance(picture, np.ndarray):
        raise InputError(f"The picture is a {type(picture).__name__}: {remedy}.")
    if picture.dtype != np.uint8:
        raise InputError(f"The picture holds {picture.dtype}: {remedy}.")
    if picture.shape != (*size, 3):
        raise InputError(f"The picture has the shape {picture.shape}: {remedy}.")


def check_face_box(box: Any, size: tuple[int, int]) -> None:
    """Refuse what is no box (y0, x0, y1, x1) inside a picture of (height, width); None is none.

    Raises:
      InputError: not four numbers, an empty or reversed box, or one that leaves the picture.
    """
    if box is None:
        return
    remedy = f"give (y0, x0, y1, x1) with 0 <= y0 < y1 <= {size[0]} and 0 <= x0 < x1 <= {size[1]}, or None"
    if not isinstance(box, (tuple, list, np.ndarray)) or len(box) != 4:
        raise InputError(f"The face box {box!r} is no box of four numbers: {remedy}.")
    if not all(isinstance(edge, numbers.Real) and math.isfinite(edge) for edge in box):
        raise InputError(f"The face box {box!r} is no box of four numbers: {remedy}.")
    y0, x0, y1, x1 = box
    if not (0 <= y0 < y1 <= size[0] and 0 <= x0 < x1 <= size[1]):
        raise InputError(
            f"The face box {tuple(map(float, box))} is reversed or leaves the picture: {remedy}."
        )
