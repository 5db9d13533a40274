"""The reference picture: every mode, every orientation, every fault."""

import numpy as np
import pytest
from PIL import Image

from tm_jax.errors import InputError
from tm_jax.media.picture import ContactSheet, crop_window, load_picture


def save(path, array, mode=None, **options):
    picture = Image.fromarray(array)
    if mode == "P":
        picture = picture.quantize()
    elif mode is not None:
        picture = picture.convert(mode)
    picture.save(path, **options)
    return path


def flat(height, width, colour=(200, 100, 50)):
    return np.tile(np.array(colour, np.uint8), (height, width, 1))


@pytest.mark.parametrize("name,mode", [("a.png", "RGB"), ("a.png", "P"), ("a.tif", "CMYK")])
def test_colour_modes(tmp_path, name, mode):
    picture = load_picture(save(tmp_path / name, flat(40, 40), mode), 32)
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - [200, 100, 50]).max() <= 4


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_modes(tmp_path, mode):
    picture = load_picture(save(tmp_path / "a.png", flat(40, 40, (255, 255, 255)), mode), 32)
    assert (picture == 255).all()


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    picture = load_picture(tmp_path / "a.png", 64)
    np.testing.assert_allclose(picture[32, :, 0], ramp[0] / 257, atol=1)


def test_float_pictures(tmp_path):
    values = np.full((32, 32), 0.5, np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.abs(load_picture(tmp_path / "a.tif", 32).astype(int) - 128).max() <= 1
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="not numbers"):
        load_picture(tmp_path / "a.tif", 32)


def test_transparency_is_laid_over_grey(tmp_path):
    rgba = np.dstack([flat(40, 40), np.zeros((40, 40), np.uint8)])
    rgba[:, 20:, 3] = 255
    for mode in ("RGBA", "LA"):
        picture = load_picture(save(tmp_path / "a.png", rgba, mode), 40)
        assert (picture[:, :18] == 128).all()
        assert (picture[5, 30] == ([200, 100, 50] if mode == "RGBA" else picture[5, 30, 0])).all()


def test_camera_orientation(tmp_path):
    upright = flat(48, 32, (0, 0, 0))
    upright[:24] = 255
    turned = Image.fromarray(np.rot90(upright).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    turned.save(tmp_path / "a.jpg", exif=exif, quality=95)
    picture = load_picture(tmp_path / "a.jpg", 32)
    assert picture[:12].mean() > 240 and picture[-12:].mean() < 15


def test_middle_is_cropped_and_nothing_stretched(tmp_path):
    wide = flat(64, 200, (0, 0, 0))
    wide[:, 68:132] = 255
    assert (load_picture(save(tmp_path / "a.png", wide), 64) == 255).all()
    assert load_picture(save(tmp_path / "a.png", wide), (32, 64)).shape == (32, 64, 3)


def test_crop_round_a_face(tmp_path):
    scene = flat(100, 300, (0, 0, 0))
    scene[20:40, 240:260] = 255
    picture = load_picture(save(tmp_path / "a.png", scene), 64, face_box=(20, 240, 40, 260))
    rows, columns = np.nonzero(picture[..., 0] > 128)
    assert 30 <= np.ptp(rows) <= 40 and abs(rows.mean() - 32) < 2 and abs(columns.mean() - 32) < 2
    with pytest.raises(InputError, match="outside the picture"):
        load_picture(tmp_path / "a.png", 64, face_box=(20, 290, 40, 310))


def test_crop_window_stays_inside():
    for box in [(0, 0, 10, 10), (90, 190, 100, 200), (0, 0, 100, 200), (40, 20, 60, 180)]:
        y0, x0, y1, x1 = crop_window((100, 200), (64, 64), box)
        assert 0 <= y0 < y1 <= 100 and 0 <= x0 < x1 <= 200
        assert y1 - y0 == pytest.approx(x1 - x0)


def truncated(path):
    save(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:3000])


BAD = {
    "missing.png": (lambda path: None, "There is no picture"),
    "folder.png": (lambda path: path.mkdir(), "is a directory"),
    "empty.png": (lambda path: path.write_bytes(b""), "is empty"),
    "text.png": (lambda path: path.write_text("hello " * 99), "is no image"),
    "cut.png": (truncated, "truncated or damaged"),
    "cut.jpg": (truncated, "truncated or damaged"),
    "dot.png": (lambda path: save(path, flat(1, 1)), r"1×1 pixels: give one of at least 16×16"),
    "line.png": (lambda path: save(path, flat(15, 400)), "400×15"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_get_one_sentence(tmp_path, name):
    make, sentence = BAD[name]
    make(tmp_path / name)
    with pytest.raises(InputError, match=sentence) as told:
        load_picture(tmp_path / name, 32)
    assert name in str(told.value) and "\n" not in str(told.value)


def test_contact_sheet_spans_a_stream_of_any_length(tmp_path):
    sheet = ContactSheet(tmp_path / "a.png", columns=3, rows=2)
    for start in range(0, 120, 12):
        sheet.add(np.tile(np.arange(start, start + 12, dtype=np.uint8)[:, None, None, None], (1, 4, 4, 3)))
        assert len(sheet._kept) <= 12
    sheet.save()
    numbers = np.asarray(Image.open(tmp_path / "a.png"))[::4, ::4, 0].reshape(-1).astype(int)
    assert len(numbers) == 6 and numbers[0] == 0 and numbers[-1] >= 104 and np.ptp(np.diff(numbers)) <= 16
    with pytest.raises(InputError, match=r"end its name in .png"):
        ContactSheet(tmp_path / "a.doc")
