"""The reference picture: whatever a user has, as the model's square of RGB.

Transparency is laid over mid-grey, the value that the image-to-video condition calls empty.
"""

import io
import logging
import math
import os
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter, ImageOps

from tm_jax.errors import InputError
from tm_jax.media.colour import to_srgb
from tm_jax.media.files import check_file, check_writable, shown, written_whole
from tm_jax.media.framing import Box, crop_window
from tm_jax.media.stated_colours import stated_profile

# What Pillow logs of a damaged picture is told here, in one sentence.
logging.getLogger("PIL").addHandler(logging.NullHandler())

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
                f"The face box {face_box} lies outside the picture {shown(path)} "
                f"of {picture.width}×{picture.height} pixels: give y0,x0,y1,x1 within it."
            )
    size = (size, size) if isinstance(size, int) else size
    return fit(picture, size, crop_window((picture.height, picture.width), size, face_box))


def read_picture(path: str | os.PathLike, notes: list[str] | None = None) -> Image.Image:
    """A picture as sRGB, by its colour profile or what else it states of its colours.

    Upright by its EXIF tag; RGBA, palette, grey, CMYK and 16-bit pictures are converted; of an animation the
    first frame is taken.

    Args:
      notes: takes a sentence where a statement of its colours is not followed.

    Raises:
      InputError: missing, empty, foreign or truncated file, fewer than 16 pixels on a side, or values that
        are no numbers.
    """
    path = Path(path)
    check_file(path, "picture")
    try:
        # Pillow's decoders warn of what they then read or refuse.
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_formats()) as file:
            # A TIFF is closed once its pixels are there; a PNG may state more behind them.
            early = stated_profile(file, path) if file.format == "TIFF" else None
            file.load()
            profile, ignored = file.info.get("icc_profile"), ""
            if not profile:
                profile, ignored = early or stated_profile(file, path)
            picture, followed = _rgb(_turned(file), profile, path)
    except Image.DecompressionBombError as error:
        name = shown(path)
        raise InputError(f"The picture {name} is larger than 179 megapixels: scale it down.") from error
    except InputError:
        raise
    except Exception as error:
        # Damaged pictures make them raise anything.
        raise InputError(
            f"The picture {shown(path)} is no image, or it is truncated or damaged: "
            "export it again as PNG or JPEG."
        ) from error
    if min(picture.size) < SMALLEST_SIDE:
        raise InputError(
            f"The picture {shown(path)} has {picture.width}×{picture.height} pixels: give one of at least "
            f"{SMALLEST_SIDE}×{SMALLEST_SIDE}."
        )
    if profile and not followed:
        ignored = "has a colour profile that is broken or of another kind of picture"
    if ignored and notes is not None:
        notes.append(f"The picture {shown(path)} {ignored}: its colours are taken as sRGB's.")
    return picture


def _formats() -> list[str]:
    """What Pillow opens: without programs (EPS) and without textures, which it decodes at leisure."""
    Image.init()
    return [name for name in Image.OPEN if name not in ("EPS", "DDS", "BLP", "FTEX")]


def _turned(picture: Image.Image) -> Image.Image:
    """Upright by its EXIF tag, which is ignored where it is damaged."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        return picture


def fit(picture: Image.Image, size: tuple[int, int], crop: Box) -> UInt8[np.ndarray, "y x 3"]:
    """A part (y0, x0, y1, x1) of an RGB picture at (height, width); what it lacks is its edges, blurred."""
    top, left, bottom, right = crop
    lacks = (-top, -left, bottom - picture.height, right - picture.width)
    if max(lacks) > 0:
        above, before, below, after = (max(0, math.ceil(side)) for side in lacks)
        wide = np.pad(np.asarray(picture), ((above, below), (before, after), (0, 0)), "edge")
        # Streaks of single pixels would look like drawn lines.
        blurred = Image.fromarray(wide).filter(ImageFilter.GaussianBlur(0.03 * (bottom - top)))
        blurred.paste(picture, (before, above))
        picture = blurred
        top, left, bottom, right = top + above, left + before, bottom + above, right + before
    resized = picture.resize(size[::-1], Image.Resampling.LANCZOS, box=(left, top, right, bottom))
    return np.asarray(resized, np.uint8)


def _rgb(picture: Image.Image, profile: bytes | None, path: Path) -> tuple[Image.Image, bool]:
    """Eight-bit sRGB from any of Pillow's modes, and whether by the profile."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, np.float64)
        if not np.isfinite(values).all():
            raise InputError(f"The picture {shown(path)} holds values that are not numbers: export it again.")
        # Deep pictures do not say where white is: 16 bits, or the unit interval of floats, or 8 bits.
        deep = picture.mode.startswith("I;16") or values.max() > 255
        white = 65535.0 if deep else (1.0 if picture.mode == "F" and values.max() <= 1 else 255.0)
        grey = np.clip(values / white * 255.0, 0, 255).round().astype(np.uint8)
        picture = Image.fromarray(grey, "L")
    stored, picture = picture, to_srgb(picture, profile)
    followed = picture is not stored
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (128, 128, 128, 255))
        picture = Image.alpha_composite(ground, picture)
    return picture.convert("RGB"), followed


class ContactSheet:
    """A video at a glance: evenly spaced frames of a stream of unknown length, in constant memory.

    Raises:
      InputError: the path cannot be written, or its ending names no kind of picture.
    """

    def __init__(self, path: str | os.PathLike, columns: int = 6, rows: int = 4):
        self.path = Path(path)
        self._format = Image.registered_extensions().get(self.path.suffix.lower(), "none")
        try:
            # Pillow can but read some of the kinds whose endings it knows, and write some but in few colours.
            Image.new("RGB", (64, 64)).save(io.BytesIO(), self._format)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"The contact sheet {shown(path)} is to be a picture: end its name in .png."
            ) from error
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
        with written_whole(self.path) as place:
            Image.fromarray(self.image()).save(place, self._format)
