"""The face box: read from a flag, found in a photograph, and carried into the crop."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tm_jax
from tm_jax.errors import InputError
from tm_jax.media.face import find_face, framed, parse_face
from tm_jax.media.face_finder import FaceFinder
from tm_jax.media.framing import crop_window, in_crop, whole_pixels

ASSETS = Path(tm_jax.__file__).parent / "assets"


def test_pixels_and_fractions():
    assert parse_face("10, 20,30,40", (100, 200)) == (10, 20, 30, 40)
    assert parse_face("0.1,0.5,0.3,1", (100, 200)) == (10, 100, 30, 200)


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "a,b,c,d", "30,20,10,40", "0,0,101,10", "-1,0,5,5", "nan,0,1,1"]
)
def test_what_is_no_box_in_the_picture_is_refused(text):
    with pytest.raises(InputError, match=r"--face.*like 0\.2,0\.3,0\.7,0\.8") as told:
        parse_face(text, (100, 200))
    assert "\n" not in str(told.value)


def test_a_box_lands_on_the_same_pixels_of_the_crop(rng):
    """A white box stays inside the mask's box, which is at most a pixel larger on each side."""
    picture = np.zeros((300, 400), np.float32)
    picture[60:140, 100:180] = 1
    box, target = (60.0, 100.0, 140.0, 180.0), (64, 64)
    crop = crop_window(picture.shape, target, box)
    y0, x0, y1, x1 = whole_pixels(in_crop(box, crop, target))
    rows = crop[0] + (np.arange(64) + 0.5) / 64 * (crop[2] - crop[0])
    columns = crop[1] + (np.arange(64) + 0.5) / 64 * (crop[3] - crop[1])
    lit = picture[rows.astype(int)][:, columns.astype(int)] > 0
    seen = np.argwhere(lit)
    assert (seen.min(0) >= (y0, x0)).all() and (seen.max(0) < (y1, x1)).all()
    assert (y1 - y0) * (x1 - x0) <= 1.15 * lit.sum()


def test_without_a_face_the_middle_is_taken_and_all_may_move():
    blank = np.full((80, 120, 3), 128, np.uint8)
    assert find_face(blank) is None
    assert framed(blank, "auto", (32, 32)) == framed(blank, "none", (32, 32)) == (None, None)


def test_a_given_box_is_framed():
    blank = np.full((80, 120, 3), 128, np.uint8)
    box, inside = framed(blank, "20,30,60,70", (32, 32))
    assert box == (20, 30, 60, 70)
    # A face of 40 pixels takes 0.55 of the crop's height, in its middle.
    assert inside == (7, 7, 25, 25)


@pytest.mark.parametrize("name", ["photo", "shaded"])
def test_a_face_is_found_in_a_shipped_picture(name):
    picture = np.asarray(Image.open(ASSETS / f"{name}.png").convert("RGB"))
    (y0, x0, y1, x1), reach = find_face(picture)
    assert abs((y0 + y1) / 2 - 256) < 40 and abs((x0 + x1) / 2 - 256) < 40
    assert 180 < y1 - y0 < 300 and reach[2] > y1


def test_the_found_box_is_framed(monkeypatch):
    monkeypatch.setattr(FaceFinder, "__call__", lambda *_: np.array([[20.0, 30.0, 60.0, 70.0]]))
    box, inside = framed(np.zeros((80, 120, 3), np.uint8), "auto", (32, 32))
    assert box == (20, 30, 60, 70)
    assert inside == (7, 7, 27, 25), "with room for the chin"
