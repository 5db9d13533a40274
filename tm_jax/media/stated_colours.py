"""Colours that a picture states without a profile, as a profile: PNG's and AVIF's fields, and EXIF's.

Stated so are primaries, a white and a curve.  What is nearly sRGB counts as sRGB: a gamma of 1/2.2 is what
programs write into a PNG that mean its curve.
"""

import re
import struct
from pathlib import Path

import numpy as np
from PIL import Image

Chromaticities = tuple[float, ...]
"""x and y of white, red, green and blue, in PNG's order."""

_D65 = (0.3127, 0.329)
SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE: Chromaticities = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_P3 = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
_PRIMARIES: dict[int, Chromaticities] = {
    **dict.fromkeys((1, 2), SRGB),
    4: (0.31, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    **dict.fromkeys((6, 7), (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07)),
    9: (*_D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, *_P3),
    12: (*_D65, *_P3),
}
"""Code of ITU-T H.273 → chromaticities; 2 leaves them open."""
_CURVES = {**dict.fromkeys((1, 2, 6, 13, 14, 15)), 4: 2.2, 5: 2.8, 8: 1.0}
"""Code of ITU-T H.273 → power; None is sRGB's curve, by which the curves of television are shown, too."""
_CODES = {
    "PNG": re.compile(rb"\0\0\0\x04cICP(..)", re.DOTALL),
    "AVIF": re.compile(rb"colrnclx(.{4})", re.DOTALL),
}
_LOOK = 1 << 16
"""Bytes of a file in which its codes lie."""


def stated_profile(file: Image.Image, path: Path) -> tuple[bytes | None, str]:
    """An ICC profile of what a picture states of its colours, and what of it is not followed.

    Neither where it states nothing, or sRGB.
    """
    if (pattern := _CODES.get(file.format)) is not None:
        with path.open("rb") as content:
            found = pattern.search(content.read(_LOOK))
        if found is not None:
            return _by_codes(*struct.unpack("BB" if len(found[1]) == 2 else ">HH", found[1]))
    if "srgb" in file.info:
        return None, ""
    if "gamma" in file.info or "chromaticity" in file.info:
        gamma = file.info.get("gamma", 1 / 2.2)
        if not 0.1 <= gamma <= 10:
            return None, f"states a gamma of {gamma:g}"
        power = None if abs(gamma - 1 / 2.2) < 0.003 else 1 / gamma
        return _profile(file.info.get("chromaticity", SRGB), power)
    return _by_exif(file)


def _by_codes(primaries: int, curve: int) -> tuple[bytes | None, str]:
    if primaries not in _PRIMARIES or curve not in _CURVES:
        kind = {16: "PQ (HDR)", 18: "HLG (HDR)"}.get(curve, f"{primaries}/{curve}")
        return None, f"states colours of the kind {kind}"
    return _profile(_PRIMARIES[primaries], _CURVES[curve])


def _by_exif(file: Image.Image) -> tuple[bytes | None, str]:
    """Cameras mark Adobe RGB as a space that is not calibrated, with R03 for its interoperability."""
    try:
        exif = file.getexif()
        camera = exif.get_ifd(0x8769)
        space = camera.get(0xA001)
        rule = exif.get_ifd(0xA005).get(1) if 0xA005 in camera else None
    except Exception:
        # A damaged tag makes Pillow raise anything.
        return None, ""
    if space == 2 or (space == 0xFFFF and str(rule).startswith("R03")):
        return _profile(ADOBE, 563 / 256)
    return None, "states colours that are not sRGB's, and not which" if space == 0xFFFF else ""


def _profile(chromaticities: Chromaticities, power: float | None) -> tuple[bytes | None, str]:
    """A profile of primaries and a power (None is sRGB's curve); none for sRGB itself."""
    places = np.array(chromaticities, np.float64)
    if places.shape != (8,) or (places[1::2] <= 0).any():
        return None, "states primaries that are none"
    if power is None and np.abs(places - SRGB).max() < 0.002:
        return None, ""
    # X, Y and Z of Y = 1 in columns.
    white, *primaries = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in places.reshape(4, 2))
    primaries = np.stack(primaries, axis=1)
    if abs(np.linalg.det(primaries)) < 1e-3:
        return None, "states primaries that are none"
    adapted = _adaptation(white) @ (primaries * np.linalg.solve(primaries, white))
    return _icc(adapted, power), ""


_D50 = np.array([0.9642, 1.0, 0.8249])
_CONES = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""Bradford's."""


def _adaptation(white: np.ndarray) -> np.ndarray:
    """From colours under a white to those under D50, which profiles are about."""
    return np.linalg.inv(_CONES) @ np.diag((_CONES @ _D50) / (_CONES @ white)) @ _CONES


def _icc(primaries: np.ndarray, power: float | None) -> bytes:
    """A display profile of version 4: XYZ of red, green and blue in columns, and one curve."""
    fixed = lambda *numbers: b"".join(struct.pack(">i", round(65536 * number)) for number in numbers)
    place = lambda xyz: b"XYZ \0\0\0\0" + fixed(*xyz)
    text = lambda words: (
        b"mluc\0\0\0\0"
        + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 2 * len(words), 28)
        + words.encode("utf-16-be")
    )
    parametric = b"para\0\0\0\0"
    if power is None:
        curve = parametric + b"\0\x03\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    else:
        curve = parametric + bytes(4) + fixed(power)
    tags = {b"desc": text("stated"), b"cprt": text("none"), b"wtpt": place(_D50)}
    tags |= {name: place(xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    head = (head + bytes(12) + b"acsp").ljust(68, b"\0") + fixed(*_D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
