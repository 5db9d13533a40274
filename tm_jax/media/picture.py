"""The reference picture: whatever a user has, as the model's square of RGB.

Transparency is laid over mid-grey, the value that the image-to-video condition calls empty.
"""

import os
import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from tm_jax.errors import InputError
from tm_jax.media.files import check_file, check_writable
from tm_jax.media.framing import Box, crop_window

SMALLEST_SIDE = 16


def load_picture(
    path: str | os.PathLike, size: int | tuple[int, int], face_box: Box | None = None
) -> UInt8[np.ndarray, "y x 3"]:
    """A picture as RGB of the model's size, cropped to its aspect and resampled.

    Args:
      size: side of the model's square, or (height, width).
      face_box: (y0, x0, y1, x1) in pixels of the upright picture; the crop is then laid round the face
        instead of in the middle.

    Raises:
      InputError: what ``read_picture`` raises, or a face box outside the picture.
    """
    picture = read_picture(path)
    if face_box is not None:
        y0, x0, y1, x1 = face_box
        if not (0 <= y0 < y1 <= picture.height and 0 <= x0 < x1 <= picture.width):
            raise InputError(
                f"The face box {face_box} lies outside the picture {path} "
                f"of {picture.width}×{picture.height} pixels: give y0,x0,y1,x1 within it."
            )
    return fit(picture, (size, size) if isinstance(size, int) else size, face_box)


def read_picture(path: str | os.PathLike) -> Image.Image:
    """A picture as RGB.

    Upright by its EXIF tag; RGBA, palette, grey, CMYK and 16-bit pictures are converted; of an animation the
    first frame is taken.

    Raises:
      InputError: missing, empty, foreign or truncated file, fewer than 16 pixels on a side, or values that
        are no numbers.
    """
    path = Path(path)
    check_file(path, "picture")
    try:
        with Image.open(path) as file:
            file.load()
            picture = _rgb(ImageOps.exif_transpose(file), path)
    except Image.DecompressionBombError as error:
        raise InputError(f"The picture {path} is larger than 179 megapixels: scale it down.") from error
    except (OSError, SyntaxError, EOFError, ValueError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"The picture {path} is no image, or it is truncated or damaged: export it again as PNG or JPEG."
        ) from error
    if min(picture.size) < SMALLEST_SIDE:
        raise InputError(
            f"The picture {path} has {picture.width}×{picture.height} pixels: give one of at least "
            f"{SMALLEST_SIDE}×{SMALLEST_SIDE}."
        )
    return picture


def fit(picture: Image.Image, size: tuple[int, int], face_box: Box | None) -> UInt8[np.ndarray, "y x 3"]:
    """An RGB picture cropped to the aspect of (height, width), round a given face, and resampled."""
    top, left, bottom, right = crop_window((picture.height, picture.width), size, face_box)
    resized = picture.resize(size[::-1], Image.Resampling.LANCZOS, box=(left, top, right, bottom))
    return np.asarray(resized, np.uint8)


def _rgb(picture: Image.Image, path: Path) -> Image.Image:
    """Eight-bit RGB from any of Pillow's modes."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, np.float64)
        if not np.isfinite(values).all():
            raise InputError(f"The picture {path} holds values that are not numbers: export it again.")
        # Deep pictures do not say where white is: 16 bits, or the unit interval of floats, or 8 bits.
        deep = picture.mode.startswith("I;16") or values.max() > 255
        white = 65535.0 if deep else (1.0 if picture.mode == "F" and values.max() <= 1 else 255.0)
        grey = np.clip(values / white * 255.0, 0, 255).round().astype(np.uint8)
        return Image.fromarray(grey, "L").convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (128, 128, 128, 255))
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")


class ContactSheet:
    """A video at a glance: evenly spaced frames of a stream of unknown length, in constant memory.

    Raises:
      InputError: the path cannot be written, or its ending names no kind of picture.
    """

    def __init__(self, path: str | os.PathLike, columns: int = 6, rows: int = 4):
        self.path = Path(path)
        if self.path.suffix.lower() not in Image.registered_extensions():
            raise InputError(f"The contact sheet {path} is to be a picture: end its name in .png.")
        check_writable(self.path)
        self._columns, self._most = columns, columns * rows
        self._kept: list[np.ndarray] = []
        self._step, self._seen = 1, 0

    def add(self, frames: UInt8[np.ndarray, "t y x 3"]) -> None:
        """Take the next frames of the stream."""
        for frame in frames:
            if self._seen % self._step == 0:
                self._kept.append(frame.copy())
            self._seen += 1
            if len(self._kept) == 2 * self._most:
                self._kept, self._step = self._kept[::2], 2 * self._step

    def image(self) -> UInt8[np.ndarray, "y x 3"]:
        """The sheet, row by row; places that are left over are white."""
        count = min(self._most, len(self._kept))
        chosen = [self._kept[i] for i in np.linspace(0, len(self._kept) - 1, count).round().astype(int)]
        blank = np.full_like(chosen[0], 255)
        chosen += [blank] * (-count % self._columns)
        rows = [chosen[i : i + self._columns] for i in range(0, len(chosen), self._columns)]
        return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)

    def save(self) -> None:
        """Write the sheet; a stream without frames gives no file."""
        if not self._kept:
            return
        try:
            Image.fromarray(self.image()).save(self.path)
        except (OSError, ValueError) as error:
            raise InputError(f"Writing {self.path} failed ({error}): is the disk full?") from error
