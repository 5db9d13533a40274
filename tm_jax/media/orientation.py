"""How a video says that it is to be shown: turned, mirrored, or both, by the display matrix of its track.

(p, q) = (a x + c y, b x + d y)    x, y: column and row as stored;  p, q: as shown
"""

import av
import numpy as np
from av.sidedata.sidedata import Type
from jaxtyping import UInt8

Matrix = tuple[int, int, int, int]
"""a, b, c, d."""
AS_STORED: Matrix = (1, 0, 0, 1)


def display_matrix(frame: av.VideoFrame) -> Matrix:
    """The matrix of a decoded frame; as stored where it has none."""
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return AS_STORED
    values = np.frombuffer(bytes(data), np.int32)
    return tuple(int(values[place]) for place in (0, 1, 3, 4))


def upright(pixels: UInt8[np.ndarray, "y x 3"], matrix: Matrix) -> UInt8[np.ndarray, "y2 x2 3"]:
    """The picture as it is to be shown: of the eight orientations the nearest one."""
    a, b, c, d = matrix
    if abs(a) + abs(d) < abs(b) + abs(c):
        # Rows show x and columns y.
        pixels, down, right = pixels.transpose(1, 0, 2), b, c
    else:
        down, right = d, a
    if down < 0:
        pixels = pixels[::-1]
    if right < 0:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
