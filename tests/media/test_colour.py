"""Colour profiles: pictures of every kind come out in sRGB, and broken profiles do no harm."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from tm_jax.media.picture import load_picture, read_picture

D50 = (0.9642, 1.0, 0.8249)
# Red, green and blue of the profiles as XYZ under D50.
P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(65536 * value)) for value in values)


def profile(space: str, tags: dict[str, bytes]) -> bytes:
    """An ICC profile of version 2 with these tags."""
    tags = {"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(79), "wtpt": xyz(D50)} | tags
    kind = b"prtr" if space == "CMYK" else b"mntr"
    head = struct.pack(">I4s4s4s4s", 0x2200000, kind, space.encode(), b"XYZ ", b"\0" * 4)
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name.encode(), at + len(body), len(content))
        body += content
    whole = bytes(4) + b"lcms" + head + bytes(8) + b"acsp" + bytes(28) + fixed(*D50)
    whole = whole.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def xyz(values: tuple) -> bytes:
    return b"XYZ \0\0\0\0" + fixed(*values)


def gamma(power: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * power)) + b"\0\0"


def of_colours(primaries: tuple, power: float) -> bytes:
    names = zip(("rXYZ", "gXYZ", "bXYZ"), primaries, strict=True)
    curves = dict.fromkeys(("rTRC", "gTRC", "bTRC"), gamma(power))
    return profile("RGB ", {name: xyz(values) for name, values in names} | curves)


def of_inks() -> bytes:
    """Inks of a printer that takes black for half as dark as it is."""
    grid = [
        np.array([0.9642, 1.0, 0.8249]) * (1 - 0.9 * (cyan + magenta + yellow) / 3) * (1 - 0.5 * black)
        for cyan in (0, 1)
        for magenta in (0, 1)
        for yellow in (0, 1)
        for black in (0, 1)
    ]
    ramp = struct.pack(">2H", 0, 65535)
    table = b"".join(struct.pack(">3H", *(value * 32768).round().astype(int)) for value in grid)
    head = b"mft2\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">2H", 2, 2)
    return profile("CMYK", {"A2B0": head + ramp * 4 + table + ramp * 3})


def linear(values: np.ndarray, power: float) -> np.ndarray:
    return (values / 255.0) ** power


def srgb(light: np.ndarray) -> np.ndarray:
    """Linear light of sRGB's primaries as values of sRGB."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


SRGB = np.array([[3.1341, -1.6174, -0.4907], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]])
"""XYZ under D50 → linear sRGB."""
PATCHES = np.array([[200, 90, 60], [60, 150, 80], [120, 120, 120], [230, 200, 180]], np.uint8)


def patches(mode: str) -> Image.Image:
    return Image.fromarray(np.repeat(np.repeat(PATCHES.reshape(2, 2, 3), 16, 0), 16, 1)).convert(mode)


def seen(path) -> np.ndarray:
    return load_picture(path, 32)[8::16, 8::16].reshape(-1, 3).astype(int)


@pytest.mark.parametrize("primaries", [P3, ADOBE], ids=["Display P3", "Adobe RGB"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_colours_become_those_of_srgb(tmp_path, primaries, name):
    options = {"lossless": True} if name == "a.webp" else {"quality": 100, "subsampling": 0}
    patches("RGB").save(tmp_path / name, icc_profile=of_colours(primaries, 2.2), **options)
    expected = srgb(linear(PATCHES, 2.2) @ np.array(primaries) @ SRGB.T)
    assert np.abs(expected - PATCHES).max() > 8
    assert np.abs(seen(tmp_path / name) - expected).max() <= 3


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_chunks(path, *chunks: bytes):
    """The patches as a PNG with these parts behind its header."""
    patches("RGB").save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:33] + b"".join(chunks) + whole[33:])
    return path


def chromaticities(*values: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(100_000 * value) for value in values)))


WIDE = chromaticities(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
LINEAR, USUAL = (chunk(b"gAMA", struct.pack(">I", value)) for value in (100_000, 45_455))


@pytest.mark.parametrize("chunks", [(WIDE, USUAL), (chunk(b"cICP", bytes([12, 13, 0, 1])),)], ids=len)
def test_display_p3_by_png_s_own_fields(tmp_path, chunks):
    expected = srgb((linear_of_srgb(PATCHES) @ np.array(P3)) @ SRGB.T)
    assert np.abs(seen(with_chunks(tmp_path / "a.png", *chunks)) - expected).max() <= 2


def linear_of_srgb(values: np.ndarray) -> np.ndarray:
    values = values / 255.0
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def test_png_s_gamma_and_which_of_its_fields_counts(tmp_path):
    path = tmp_path / "a.png"
    assert np.abs(seen(with_chunks(path, LINEAR)) - srgb(PATCHES / 255.0)).max() <= 1
    for plain in (
        (USUAL,),
        (chunk(b"sRGB", b"\0"), WIDE, LINEAR),
        (chunk(b"cICP", bytes([1, 13, 0, 1])), LINEAR),
    ):
        np.testing.assert_array_equal(seen(with_chunks(path, *plain)), PATCHES)


@pytest.mark.parametrize(
    ("chunks", "told"),
    [
        ((chunk(b"cICP", bytes([9, 16, 0, 1])),), "colours of the kind PQ"),
        ((chunk(b"gAMA", bytes(4)),), "a gamma of 0"),
        ((chromaticities(*[0.3] * 8),), "primaries that are none"),
        ((chunk(b"cHRM", bytes(8)),), "primaries that are none"),
        ((chunk(b"iCCP", b"x\0\0" + zlib.compress(of_inks())),), "a colour profile that is broken"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_followed_is_told(tmp_path, chunks, told):
    picture = read_picture(with_chunks(tmp_path / "a.png", *chunks), notes := [])
    assert len(notes) == 1 and told in notes[0] and notes[0].endswith("its colours are taken as sRGB's.")
    np.testing.assert_array_equal(np.asarray(picture)[8::16, 8::16].reshape(-1, 3), PATCHES)


@pytest.mark.parametrize(("name", "how"), [("a.jpg", {"quality": 100, "subsampling": 0}), ("a.tif", {})])
@pytest.mark.parametrize(
    ("space", "rule", "adobe"), [(1, "R98", False), (0xFFFF, "R03", True), (2, None, True)]
)
def test_adobe_rgb_by_exif(tmp_path, space, rule, adobe, name, how):
    exif = Image.Exif()
    exif[0x8769] = {0xA001: space} | ({0xA005: {1: rule}} if rule else {})
    patches("RGB").save(tmp_path / name, exif=exif.tobytes(), **how)
    if name == "a.tif" and rule:
        # Pillow leaves the inner directory out: it is put at the end.
        whole = (tmp_path / name).read_bytes()
        entry = whole.index(struct.pack("<HHL", 0xA005, 4, 1)) + 8
        inner = struct.pack("<HHHL4sL", 1, 1, 2, 4, rule.encode(), 0)
        place = struct.pack("<L", len(whole))
        (tmp_path / name).write_bytes(whole[:entry] + place + whole[entry + 4 :] + inner)
    expected = srgb(linear(PATCHES, 2.2) @ np.array(ADOBE) @ SRGB.T) if adobe else PATCHES
    assert np.abs(seen(tmp_path / name) - expected).max() <= 3


def test_display_p3_by_avif_s_codes(tmp_path):
    path = tmp_path / "a.avif"
    patches("RGB").save(path, quality=100, subsampling="4:4:4")
    whole = path.read_bytes()
    plain, place = seen(path), whole.index(b"colrnclx") + 8
    path.write_bytes(whole[:place] + struct.pack(">HH", 12, 13) + whole[place + 4 :])
    expected = srgb((linear_of_srgb(PATCHES) @ np.array(P3)) @ SRGB.T)
    assert np.abs(plain - PATCHES).max() <= 2 and np.abs(seen(path) - expected).max() <= 4


def test_palettes_and_transparency_keep_their_colours(tmp_path):
    wide = of_colours(P3, 2.2)
    patches("RGB").save(tmp_path / "rgb.png", icc_profile=wide)
    patches("RGB").quantize().save(tmp_path / "p.png", icc_profile=wide)
    clear = patches("RGBA")
    clear.putalpha(
        Image.fromarray(np.where(np.arange(32) < 16, 0, 255)[:, None].repeat(32, 1).astype(np.uint8))
    )
    clear.save(tmp_path / "rgba.png", icc_profile=wide)
    keyed = patches("RGB")
    keyed.save(tmp_path / "keyed.png", icc_profile=wide, transparency=tuple(map(int, PATCHES[0])))
    opaque = seen(tmp_path / "rgb.png")
    assert np.abs(seen(tmp_path / "p.png") - opaque).max() <= 6
    over = seen(tmp_path / "rgba.png")
    assert (over[:2] == 128).all() and np.abs(over[2:] - opaque[2:]).max() <= 1
    over = seen(tmp_path / "keyed.png")
    assert (over[0] == 128).all() and np.abs(over[1:] - opaque[1:]).max() <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_profiles(tmp_path, mode):
    grey = np.tile(np.repeat(np.array([60, 120, 180, 240], np.uint8), 8), (32, 1))
    picture = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey)
    picture = picture if mode == "I;16" else picture.convert(mode)
    picture.save(tmp_path / "a.png", icc_profile=profile("GRAY", {"kTRC": gamma(1.0)}))
    got = load_picture(tmp_path / "a.png", 32)[16, 4::8, 0]
    np.testing.assert_allclose(got, srgb(np.array([60, 120, 180, 240]) / 255.0), atol=2)


def test_inks_by_their_own_profile(tmp_path):
    black = Image.new("CMYK", (32, 32), (0, 0, 0, 255))
    black.save(tmp_path / "a.tif", icc_profile=of_inks())
    got = load_picture(tmp_path / "a.tif", 32)[16, 16]
    assert np.abs(got - srgb(np.full(3, 0.5))).max() <= 6, "half as dark"
    black.save(tmp_path / "plain.tif")
    assert load_picture(tmp_path / "plain.tif", 32).max() == 0


def test_profiles_that_are_broken_or_of_other_pixels_are_ignored(tmp_path):
    patches("RGB").save(tmp_path / "plain.png")
    whole = of_colours(P3, 2.2)
    for broken in (b"x", whole[:200], whole[:100] + bytes(300), of_inks(), b""):
        patches("RGB").save(tmp_path / "a.png", icc_profile=broken)
        np.testing.assert_array_equal(seen(tmp_path / "a.png"), seen(tmp_path / "plain.png"))
    usual = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    patches("RGB").save(tmp_path / "a.png", icc_profile=usual)
    assert np.abs(seen(tmp_path / "a.png") - seen(tmp_path / "plain.png")).max() <= 1
