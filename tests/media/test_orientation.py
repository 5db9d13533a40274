"""The eight ways to show a picture, by a video's display matrix and by a photograph's EXIF tag."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from tm_jax.media.orientation import upright
from tm_jax.media.picture import read_picture

# EXIF's number → the display matrix (a, b, c, d) that says the same.
MATRICES = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


@pytest.mark.parametrize("number", MATRICES)
def test_all_eight(number, tmp_path, rng):
    pixels = rng.integers(0, 255, (18, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = number
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    photograph = np.asarray(read_picture(tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as stored:
        np.testing.assert_array_equal(photograph, np.asarray(ImageOps.exif_transpose(stored)))
    matrix = tuple(65536 * value for value in MATRICES[number])
    np.testing.assert_array_equal(upright(pixels, matrix), photograph)


def test_a_matrix_of_nothing_and_a_tilted_one():
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(upright(pixels, (0, 0, 0, 0)), pixels)
    np.testing.assert_array_equal(upright(pixels, (60_000, 9_000, -9_000, 60_000)), pixels)
