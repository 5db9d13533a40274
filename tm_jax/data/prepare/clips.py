"""The pixels and sound of the pieces that were kept, in one pass through their video."""

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from tm_jax.data.prepare.decode import Picture, pictures
from tm_jax.data.prepare.pieces import Piece
from tm_jax.data.prepare.sources import Source, one_video
from tm_jax.data.prepare.survey import Survey
from tm_jax.errors import InputError
from tm_jax.media.files import shown
from tm_jax.media.framing import Box
from tm_jax.rates import SAMPLES_PER_FRAME


def cropped(
    rgb: UInt8[np.ndarray, "y x 3"], crop: Box, target: tuple[int, int]
) -> UInt8[np.ndarray, "y2 x2 3"]:
    """The crop (y0, x0, y1, x1) at the target's height and width."""
    y0, x0, y1, x1 = (round(side) for side in crop)
    how = cv2.INTER_AREA if y1 - y0 >= target[0] else cv2.INTER_CUBIC
    return cv2.resize(rgb[y0:y1, x0:x1], (target[1], target[0]), interpolation=how)


def sound_of(seen: Survey, piece: Piece) -> Float32[np.ndarray, " s"]:
    """The piece's sound, 640 samples a frame, silence where the video's sound has ended."""
    start, stop = (SAMPLES_PER_FRAME * frame for frame in (piece.start, piece.start + piece.frames))
    part = seen.sound[start:stop].astype(np.float32) / 32768
    return np.pad(part, (0, stop - start - len(part)))


def clips(
    source: Source, kept: list[Piece], target: tuple[int, int]
) -> Iterator[tuple[Piece, Iterator[UInt8[np.ndarray, "y x 3"]]]]:
    """Each kept piece (in order) with an iterator over its cropped frames, to be used before the next.

    Raises:
      InputError: from the iterators, whatever the video raises.
    """
    frames = enumerate(_pictures(source))

    def of(piece: Piece) -> Iterator[np.ndarray]:
        for index, picture in frames:
            if index >= piece.start:
                yield cropped(picture.rgb(), piece.crop, target)
            if index == piece.start + piece.frames - 1:
                return
        raise InputError(f"{shown(source.path)} has become shorter while it was read: begin again.")

    for piece in kept:
        yield piece, of(piece)


def _pictures(source: Source) -> Iterator[Picture]:
    with one_video(source):
        yield from pictures(source.path)
