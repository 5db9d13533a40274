"""Where the face is: sound moves the picture inside its box and nowhere else (METHOD §4).

The detector and the margins are those by which training clips are prepared.  It looks for photographed
faces and misses most drawn ones, so a box can also be given by hand.
"""

import numpy as np
from jaxtyping import UInt8

from tm_jax.errors import InputError
from tm_jax.media.framing import Box, crop_window, in_crop, whole_pixels


def find_face(picture: UInt8[np.ndarray, "y x 3"]) -> tuple[Box, Box] | None:
    """The largest face of an RGB picture: its box, and its reach with room for the chin; or None."""
    # OpenCV takes a while to import, and a box given by hand needs none of it.
    from tm_jax.media.face_finder import FaceFinder, track

    faces = FaceFinder()(picture)
    if not len(faces):
        return None
    found = track([faces])
    return found.box, found.reach


def parse_face(text: str, picture: tuple[int, int]) -> Box:
    """A box from ``y0,x0,y1,x1``: pixels of the (height, width) picture, or fractions if none exceeds 1.

    Raises:
      InputError: not four numbers, or an empty box or one that leaves the picture.
    """
    remedy = "give y0,x0,y1,x1 in pixels or fractions of the picture, like 0.2,0.3,0.7,0.8"
    try:
        box = tuple(float(number) for number in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise InputError(f"--face {text!r} is no box of four numbers: {remedy}.")
    height, width = picture
    if max(box) <= 1:
        box = (box[0] * height, box[1] * width, box[2] * height, box[3] * width)
    y0, x0, y1, x1 = box
    # Written so that NaN is refused too.
    if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
        raise InputError(f"--face {text} lies outside the picture of {width}×{height} pixels: {remedy}.")
    return box


def framed(
    picture: UInt8[np.ndarray, "y x 3"], face: str, target: tuple[int, int]
) -> tuple[Box | None, tuple[int, int, int, int] | None]:
    """What ``--face`` asks for: the face to lay the crop round, and the box that sound moves, in its pixels.

    Args:
      face: auto, none, or a box as ``parse_face`` takes it.
      target: (height, width) of the video.

    Both are None without a face: the middle of the picture is taken, and all of it may move.
    """
    if face == "none":
        return None, None
    if face == "auto":
        found = find_face(picture)
        if found is None:
            return None, None
        box, reach = found
    else:
        box = reach = parse_face(face, picture.shape[:2])
    return box, whole_pixels(in_crop(reach, crop_window(picture.shape[:2], target, box), target))
