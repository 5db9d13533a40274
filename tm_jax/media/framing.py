"""How a picture is laid round a face: the same for the reference of a stream and for training clips."""

import math

FACE_SHARE = 0.55

Number = float | int
Box = tuple[Number, Number, Number, Number]
"""(y0, x0, y1, x1) in pixels."""


def crop_window(picture: tuple[int, int], target: tuple[int, int], face_box: Box | None = None) -> Box:
    """The part (y0, x0, y1, x1) of a (height, width) picture that has the target's aspect.

    The largest one in the middle; with a face box, one round the face's centre in which the face takes
    about half of the height, moved and shrunk to lie inside the picture.
    """
    aspect = target[1] / target[0]
    height = min(picture[0], picture[1] / aspect)
    centre = (picture[0] / 2, picture[1] / 2)
    if face_box is not None:
        y0, x0, y1, x1 = face_box
        height = min(height, max(y1 - y0, (x1 - x0) / aspect) / FACE_SHARE)
        centre = ((y0 + y1) / 2, (x0 + x1) / 2)
    width = height * aspect
    top = min(max(centre[0] - height / 2, 0.0), picture[0] - height)
    left = min(max(centre[1] - width / 2, 0.0), picture[1] - width)
    return top, left, min(top + height, picture[0]), min(left + width, picture[1])


def in_crop(box: Box, crop: Box, target: tuple[int, int]) -> Box:
    """A box of a picture in the pixels of its crop, once that is resampled to (height, width) ``target``."""
    scale = (target[0] / (crop[2] - crop[0]), target[1] / (crop[3] - crop[1]))
    side = lambda index: (box[index] - crop[index % 2]) * scale[index % 2]
    return tuple(min(max(side(index), 0.0), float(target[index % 2])) for index in range(4))


def whole_pixels(box: Box) -> tuple[int, int, int, int]:
    """The smallest box of whole pixels that holds a box."""
    return math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
