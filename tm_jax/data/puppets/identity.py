"""Who a puppet is: some eighty numbers drawn from a seed, in one of three styles.

Lengths are in half pictures (the picture spans −1 … 1, y down); colours are 0 … 1.
"""

import colorsys
import dataclasses

import numpy as np
from jaxtyping import Float

STYLES = ("shaded", "anime", "photo")
SPLITS = {"train": 0, "heldout": 1, "language": 2}

_SKINS = {
    "shaded": ["f6c9a4", "eab48a", "d99b6c", "b97a50", "966040", "7a4e38", "f9d6bd", "c98d64"],
    "anime": ["ffe3cf", "fdd9bf", "f6c8a6", "e0a57c", "b97f58", "ffeadb", "8e5f42"],
    "photo": ["e8bea0", "dcaa88", "c89270", "ad7754", "8f5f48", "74503f", "edcbb2"],
}
_HAIRS = {
    "shaded": ["2b1d16", "5a3a22", "8d5a2b", "c98a3c", "e0b964", "a5402a", "3a3f58", "7a7a80", "d9d4cc"],
    "anime": [
        "3b2a4a",
        "28304e",
        "e8b84a",
        "d8607a",
        "4a9ab0",
        "7a4a2e",
        "8a62c0",
        "e8e2ea",
        "3f8a5a",
        "c94a32",
    ],
    "photo": ["241a15", "3d2a1e", "5d412b", "86613e", "ab8652", "6e3324", "77736f", "b9b3aa"],
}
_IRISES = ["4a2f1c", "6b4526", "3f6b8c", "4f7a52", "7a6a3a", "5b5f68", "2f4f7a"]
_ANIME_IRISES = ["3f7fd0", "37a070", "b0562f", "8a4fc0", "c9962c", "2f9ab5", "c0406a"]


def _rgb(code: str) -> np.ndarray:
    return np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], np.float64) / 255


def _hsv(hue, saturation, value) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


@dataclasses.dataclass(frozen=True)
class Identity:
    """The looks of one puppet."""

    style: str
    """One of `STYLES`."""
    values: dict[str, float]
    """Every parameter by name; colours as three names ending in _r, _g, _b."""

    def vector(self) -> Float[np.ndarray, " parameters"]:
        """The values as the renderer reads them, in the order of `PARAMETERS`."""
        return np.array([self.values[name] for name in PARAMETERS], np.float32)


def draw_identity(seed: int, split: str, number: int, style: str | None = None) -> Identity:
    """Identity `number` of a split; its style is ``number % 3`` where none is given."""
    rng = np.random.default_rng([seed, SPLITS[split], 1, number])
    style = style or STYLES[number % 3]
    values = _geometry(rng, style)
    values |= {f"is_{name}": float(name == style) for name in STYLES}
    for name, colour in _colours(rng, style).items():
        values |= {f"{name}_{axis}": float(x) for axis, x in zip("rgb", np.clip(colour, 0, 1), strict=True)}
    return Identity(style=style, values={name: float(value) for name, value in values.items()})


def _geometry(rng: np.random.Generator, style: str) -> dict[str, float]:
    anime, photo = style == "anime", style == "photo"
    u = rng.uniform
    tall = u(0.575, 0.63) if anime else u(0.60, 0.67)
    eye_high = u(0.115, 0.145) if anime else (u(0.072, 0.09) if not photo else u(0.056, 0.068))
    eye_wide = u(0.118, 0.14) if anime else (u(0.105, 0.12) if not photo else u(0.1, 0.115))
    long_hair = rng.random() < 0.5
    bald = (not anime) and rng.random() < 0.08
    bearded = (not anime) and (not long_hair) and rng.random() < 0.3
    glasses = rng.random() < 0.2
    return {
        "head_x": u(-0.03, 0.03),
        "head_y": u(-0.08, -0.02),
        "head_w": u(0.45, 0.5) if anime else u(0.43, 0.5),
        "head_h": tall,
        "taper": u(0.3, 0.4) if anime else u(0.1, 0.26),
        "ear": u(0.06, 0.085),
        "neck_w": u(0.15, 0.19) if anime else u(0.19, 0.26),
        "shoulder_w": u(0.75, 0.9),
        "shoulder_y": u(0.74, 0.82),
        "neckline_w": u(0.2, 0.3),
        "neckline_h": u(0.1, 0.24),
        "eye_y": u(0.0, 0.04) if anime else u(-0.08, -0.04),
        "eye_dx": u(0.2, 0.23) if anime else u(0.185, 0.22),
        "eye_w": eye_wide,
        "eye_h": eye_high,
        "eye_tilt": u(-0.12, 0.12),
        "iris": eye_high * (u(0.88, 0.98) if anime else u(0.8, 0.9)),
        "lash": u(0.028, 0.034) if anime else u(0.014, 0.022),
        "brow_y": eye_high + (u(0.075, 0.1) if anime else u(0.07, 0.1)),
        "brow_th": u(0.012, 0.018) if anime else u(0.018, 0.032),
        "brow_w": u(0.11, 0.14),
        "brow_tilt": u(-0.2, 0.2),
        "nose_y": u(0.12, 0.15) if anime else u(0.1, 0.15),
        "nose_w": u(0.06, 0.1),
        "nose_k": u(0.2, 0.35) if anime else u(0.8, 1.2),
        "mouth_y": u(0.285, 0.31),
        "mouth_w": u(0.16, 0.19) if anime else u(0.17, 0.205),
        "mouth_h": u(0.255, 0.29),
        "lip_u": 0.006 if anime else u(0.028, 0.042),
        "lip_l": 0.006 if anime else u(0.038, 0.058),
        "smile": u(0.0, 0.02),
        "hair_on": 0.0 if bald else 1.0,
        "hair_vol": u(0.07, 0.13) if anime else u(0.04, 0.11),
        "hairline": u(0.3, 0.38) if anime else u(0.36, 0.46),
        "arch": u(0.3, 0.55) if long_hair else u(0.25, 0.38),
        "fringe": u(0.06, 0.11) if anime else u(0.0, 0.035),
        "fringe_f": u(2.6, 3.8) if anime else u(1.5, 2.6),
        "fringe_p": u(0, 1),
        "part": u(-0.25, 0.25),
        "hair_len": u(0.55, 1.2) if long_hair else u(-0.25, 0.05),
        "hair_w": u(0.06, 0.14) if long_hair else 0.03,
        "glasses": float(glasses),
        "glasses_r": max(eye_wide, eye_high) + u(0.03, 0.045),
        "beard": u(0.5, 0.9) * bearded,
        "moustache": u(0.5, 0.9) * (bearded and rng.random() < 0.7),
        "blush": u(0.3, 0.7) if anime else u(0.1, 0.4),
        "mottle_a": u(4, 8),
        "mottle_b": u(0, 6),
        "light": u(-0.6, 0.6),
        "collar": float(rng.random() < 0.4),
        **{f"blob{i}_x": u(-1, 1) for i in range(3)},
        **{f"blob{i}_y": u(-1, 0.4) for i in range(3)},
        **{f"blob{i}_s": u(0.25, 0.5) for i in range(3)},
        **{f"blob{i}_a": u(-0.14, 0.2) * (1.0 if photo else 0.5) for i in range(3)},
    }


def _colours(rng: np.random.Generator, style: str) -> dict[str, np.ndarray]:
    u = rng.uniform
    pick = lambda codes: _rgb(codes[rng.integers(len(codes))]) + u(-0.025, 0.025, 3)
    skin, hair = pick(_SKINS[style]), pick(_HAIRS[style])
    iris = pick(_ANIME_IRISES if style == "anime" else _IRISES)
    lip_tint = _hsv(u(-0.03, 0.03), u(0.45, 0.65), u(0.6, 0.8))
    hue, cloth_hue = rng.random(2)
    if style == "photo":
        low, high = (
            _hsv(hue, u(0.1, 0.4), u(0.2, 0.4)),
            _hsv(hue + u(-0.12, 0.12), u(0.1, 0.35), u(0.45, 0.7)),
        )
    elif style == "anime":
        low, high = (
            _hsv(hue, u(0.15, 0.4), u(0.8, 0.95)),
            _hsv(hue + u(-0.15, 0.15), u(0.05, 0.25), u(0.93, 1)),
        )
    else:
        low, high = (
            _hsv(hue, u(0.3, 0.55), u(0.45, 0.65)),
            _hsv(hue + u(-0.1, 0.1), u(0.2, 0.45), u(0.7, 0.9)),
        )
    return {
        "skin": skin,
        "hair": hair,
        "iris": iris,
        "brow": hair * 0.6 + np.array([0.04, 0.02, 0.02]),
        "lip": skin * 0.42 + lip_tint * 0.55,
        "cloth": _hsv(cloth_hue, u(0.25, 0.75), u(0.3, 0.85)),
        "low": low,
        "high": high,
        "frame": _hsv(rng.random(), u(0.1, 0.6), u(0.1, 0.3)),
    }


PARAMETERS = tuple(draw_identity(0, "train", 0).values)
