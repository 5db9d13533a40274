"""Where the face is: the crop is laid round it, and sound moves the picture inside its box (METHOD §4).

The margins are those by which training clips are prepared.  Not every drawn face is found, so a box can also
be given by hand.
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from tm_jax.errors import InputError
from tm_jax.media.framing import Box, crop_window, in_crop, whole_pixels


def find_face(picture: UInt8[np.ndarray, "y x 3"]) -> tuple[Box, Box] | None:
    """The largest face of an RGB picture: its box, and its reach with room for the chin; or None."""
    # OpenCV takes a while to import, and a box given by hand needs none of it.
    from tm_jax.media.face_finder import track
    from tm_jax.media.face_search import search_face

    box = search_face(picture)
    if box is None:
        return None
    found = track([np.array([box])])
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


@dataclasses.dataclass(frozen=True)
class Framing:
    """How a picture is cropped, and what of the crop may move."""

    crop: Box
    """The part of the picture that is shown, (y0, x0, y1, x1) in its pixels."""
    face: Box | None = None
    """The face that it is laid round; None where it is the middle of the picture."""
    moving: tuple[int, int, int, int] | None = None
    """The box that sound moves, in pixels of the video; None is everywhere."""
    note: str = ""
    """What is to be told of it; empty where nothing is out of the ordinary."""


def framed(
    picture: UInt8[np.ndarray, "y x 3"], face: str, target: tuple[int, int], *, all_moves: bool = False
) -> Framing:
    """What ``--face`` asks for.

    Args:
      face: auto, none, or a box as ``parse_face`` takes it; empty is auto.
      target: (height, width) of the video.
      all_moves: with an empty ``face``, all of the picture moves wherever a face was found, and one whose
        middle shows a face as it should be is left as it is.
    """
    size = picture.shape[:2]
    middle, small, photo = Framing(crop_window(size, target)), all_moves and not face, False
    if face == "none":
        return middle
    if face in ("", "auto"):
        found = find_face(picture)
        if found is None:
            note = "no face was found: the middle of the picture is taken, and all of it may move"
            return dataclasses.replace(middle, note=f"{note} (--face y0,x0,y1,x1 gives one)")
        box, reach = found
        photo = small and _photographed(picture, box)
        if small and not photo and _well_placed(box, middle.crop):
            return middle
    else:
        box = reach = parse_face(face, size)
    crop = _as_drawn(box, target) if photo else crop_window(size, target, box)
    moving = None if small else whole_pixels(in_crop(reach, crop, target))
    note = ""
    if face in ("", "auto") and crop != middle.crop:
        sides = lambda box: ",".join(str(round(side)) for side in box)
        note = (
            f"a face was found at {sides(box)}: the picture is cropped to {sides(crop)} of its "
            f"{size[0]}×{size[1]} pixels, all y0,x0,y1,x1 (--face none takes the middle)"
        )
    return Framing(crop, box, moving, note)


def _photographed(picture: UInt8[np.ndarray, "y x 3"], face: Box) -> bool:
    """Whether a face has the skin of a photograph: neighbouring pixels of 1/72 of it seldom are alike.

    Their median difference is 0.3 to 2.0 of 255 in drawn faces (26 of all three styles), 5.7 to 7.3 in
    photographed ones (three pictures of two).
    """
    import cv2

    y0, x0, y1, x1 = (max(0, round(side)) for side in face)
    small = cv2.resize(picture[y0:y1, x0:x1], (72, 72), interpolation=cv2.INTER_AREA).mean(2)
    apart = [np.abs(np.diff(small, axis=axis)).ravel() for axis in (0, 1)]
    return float(np.median(np.concatenate(apart))) > 3.5


def _as_drawn(face: Box, target: tuple[int, int]) -> Box:
    """The crop round a photographed face in which its mouth lies where the small students draw theirs.

    Their mouths lie at 0.60 of the picture's height; a photographed one lies at 0.78 to 0.82 of the box that
    the cascades find, and so at 0.59 to 0.61 of this crop.  It may leave the picture, whose edges are then
    continued.
    """
    y0, x0, y1, x1 = face
    height, top = 2.12 * (y1 - y0), y0 - 0.48 * (y1 - y0)
    width, middle = height * target[1] / target[0], (x0 + x1) / 2
    return top, middle - width / 2, top + height, middle + width / 2


def _well_placed(face: Box, crop: Box) -> bool:
    """Whether a crop shows a drawn face about as the small students' training pictures do."""
    height, width = crop[2] - crop[0], crop[3] - crop[1]
    share = (face[2] - face[0]) / height
    down = ((face[0] + face[2]) / 2 - crop[0]) / height
    right = ((face[1] + face[3]) / 2 - crop[1]) / width
    return 0.4 < share < 0.75 and 0.35 < down < 0.65 and 0.38 < right < 0.62
