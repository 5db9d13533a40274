"""The face box: read from a flag, found in a photograph, and carried into the crop."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tm_jax
from tm_jax.errors import InputError
from tm_jax.media import face_search
from tm_jax.media.face import find_face, framed, parse_face
from tm_jax.media.framing import crop_window, in_crop, whole_pixels
from tm_jax.media.picture import fit

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
    for face in ("auto", "none", ""):
        framing = framed(blank, face, (32, 32))
        assert (framing.crop, framing.face, framing.moving) == ((0, 20, 80, 100), None, None)
        assert ("no face was found" in framing.note) == (face != "none")


def test_a_given_box_is_framed():
    blank = np.full((80, 120, 3), 128, np.uint8)
    framing = framed(blank, "20,30,60,70", (32, 32), all_moves=True)
    assert framing.face == (20, 30, 60, 70) and not framing.note
    # A face of 40 pixels takes 0.55 of the crop's height, in its middle.
    assert framing.moving == (7, 7, 25, 25)


@pytest.mark.parametrize("name", ["photo", "shaded", "anime"])
def test_a_face_is_found_in_a_shipped_picture(name):
    picture = np.asarray(Image.open(ASSETS / f"{name}.png").convert("RGB"))
    (y0, x0, y1, x1), reach = find_face(picture)
    assert abs((y0 + y1) / 2 - 256) < 40 and abs((x0 + x1) / 2 - 256) < 40
    assert 180 < y1 - y0 < 300 and reach[2] > y1


def test_the_found_box_is_framed_and_told(monkeypatch):
    monkeypatch.setattr(face_search, "search_face", lambda *_: (20.0, 30.0, 60.0, 70.0))
    picture = np.zeros((80, 240, 3), np.uint8)
    framing = framed(picture, "", (32, 32))
    assert framing.face == (20, 30, 60, 70)
    assert framing.moving == (7, 7, 27, 25), "with room for the chin"
    assert re.search(
        r"found at 20,30,60,70: the picture is cropped to 4,14,76,86 of its 80×240", framing.note
    )
    assert framed(picture, "", (32, 32), all_moves=True).moving is None
    assert framed(picture, "auto", (32, 32), all_moves=True).moving == framing.moving


@pytest.mark.parametrize("box", [(300.0, 400.0, 400.0, 500.0), (20.0, 30.0, 520.0, 530.0)])
def test_small_students_are_given_a_mouth_where_they_draw_theirs(monkeypatch, rng, box):
    """A photographed mouth, at 0.8 of the found box, comes to 0.6 of the height, in small pictures too."""
    monkeypatch.setattr(face_search, "search_face", lambda *_: box)
    # Skin is anything but flat; a face like that is a drawing, which is left where it stands.
    flat = np.zeros((900, 800, 3), np.uint8)
    assert framed(flat, "", (128, 128), all_moves=True).crop == crop_window((900, 800), (128, 128), box)
    grain = max(1, round((box[2] - box[0]) / 72))
    noise = rng.integers(0, 60, (-(-900 // grain), -(-800 // grain), 3))
    picture = np.kron(noise, np.ones((grain, grain, 1), int))[:900, :800].astype(np.uint8)
    mouth, centre = box[0] + 0.8 * (box[2] - box[0]), (box[1] + box[3]) / 2
    picture[round(mouth) - 4 : round(mouth) + 4, round(centre) - 4 : round(centre) + 4] = 255
    framing = framed(picture, "", (128, 128), all_moves=True)
    assert framing.moving is None and framing.note
    shown = fit(Image.fromarray(picture), (128, 128), framing.crop)[..., 0].astype(float)
    shown = np.maximum(shown - 100, 0)
    rows, columns = np.indices(shown.shape)
    assert abs((rows * shown).sum() / shown.sum() / 128 - 0.6) < 0.02
    assert abs((columns * shown).sum() / shown.sum() / 128 - 0.5) < 0.02


def test_what_a_crop_lacks_is_the_edges_blurred():
    picture = np.full((40, 40, 3), 100, np.uint8)
    picture[0] = 200
    shown = fit(Image.fromarray(picture), (80, 80), (-20, -20, 60, 60))
    assert (shown[24:56, 24:56] == 100).all() and (shown[:12, 25:55] > 190).all()
    assert (shown[64:, 24:56] == 100).all()


@pytest.mark.parametrize("name", ["photo", "shaded", "anime"])
def test_a_shipped_portrait_is_left_as_it_is_and_found_anywhere(name):
    picture = np.asarray(Image.open(ASSETS / f"{name}.png").convert("RGB"))
    same = framed(picture, "", (64, 64), all_moves=True)
    assert same == framed(picture, "none", (64, 64)) and not same.note
    wall = np.full((512, 1600, 3), (90, 120, 200), np.uint8)
    wall[:, 1088:] = picture
    top, left, bottom, right = framed(wall, "", (64, 64), all_moves=True).crop
    # Eyes and mouth lie in the middle third of the portraits.
    assert top < 170 and bottom > 340 and left < 1088 + 170 and right > 1088 + 340


def test_a_face_high_up_in_a_tall_picture_is_found():
    portrait = Image.open(ASSETS / "photo.png").convert("RGB").resize((150, 150))
    tall = Image.new("RGB", (150, 1500), (90, 120, 200))
    tall.paste(portrait, (0, 100))
    crop = framed(np.asarray(tall), "", (64, 64), all_moves=True).crop
    assert crop[0] < 100 + 50 and 100 + 100 < crop[2] < 300
