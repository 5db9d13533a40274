"""What is still in a photograph-like face, made once an identity with NumPy: lit skin, strands, background.

The face's map lies in the head's coordinates and moves with it; the background stays where it is.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32
from scipy.fft import irfft2
from scipy.ndimage import gaussian_filter, map_coordinates

MAP = 160
"""Side of a face's map in cells."""
REACH = 1.15
"""The map spans −REACH … REACH half pictures, in both directions."""
LIGHTING = (
    *("light_x", "light_y", "light_z", "key"),
    *("focus", "gain_r", "gain_g", "gain_b", "contrast", "tousle", "cast"),
)
"""Numbers that the painter needs beside the maps: where the light comes from and its share, width of an edge
in pixels, the camera's gains and contrast, how far strands leave the outline of the hair, strength of the
fringe's shadow."""


class Photograph(NamedTuple):
    """One photograph-like identity, as the painter takes it."""

    lighting: Float32[np.ndarray, " lighting"]
    """In the order of ``LIGHTING``."""
    face: Float32[np.ndarray, "map map 5"]
    """Red against green, level of light, gloss, strands of the hair, and gaps between brow hairs."""
    background: Float32[np.ndarray, "size size 4"]
    """Colours 0 … 1, the camera's noise included, and brightness of the cloth, about 1."""


def noise(
    rng: np.random.Generator, shape: tuple[int, int], slope: float, cycles: int = 0
) -> Float[np.ndarray, "y x"]:
    """A random field of unit variance whose amplitude falls as 1/frequency**slope.

    Args:
        cycles: below so many cycles over the field there is nothing.
    """
    height, width = shape
    down = np.fft.fftfreq(height)[:, None] * height
    right = np.fft.rfftfreq(width)[None, :] * width
    frequency = np.hypot(down, right)
    amplitude = np.where(frequency > cycles, np.maximum(frequency, 1.0) ** -slope, 0.0)
    amplitude[0, 0] = 0.0
    spectrum = rng.normal(size=amplitude.shape) + 1j * rng.normal(size=amplitude.shape)
    field = irfft2(amplitude * spectrum, s=shape)
    return field / field.std()


def shade_photograph(rng: np.random.Generator, values: dict[str, float], size: int) -> Photograph:
    """Light, skin, hair and background of one identity of the photo style.

    Args:
        values: its parameters by name.
        size: side of the picture in pixels.
    """
    u = rng.uniform
    light = np.array([u(-0.75, 0.75), u(-0.75, -0.15), u(0.6, 1.0)])
    light /= np.linalg.norm(light)
    key = u(0.3, 0.75)
    gains = u(1.0, 1.25) * (1 + u(-0.06, 0.06) * np.array([1.0, 0.0, -1.2]))
    lighting = {
        **dict(zip(("light_x", "light_y", "light_z"), light, strict=True)),
        "key": key,
        "focus": u(0.85, 1.35),
        **dict(zip(("gain_r", "gain_g", "gain_b"), gains, strict=True)),
        "contrast": u(0.1, 0.6),
        "tousle": u(0.01, 0.05),
        "cast": u(0.2, 0.5),
    }
    axis = ((np.arange(MAP) + 0.5) / MAP * 2 - 1) * REACH
    x, y = axis[None, :], axis[:, None]
    level, gloss = _light(rng, values, x, y, light, key)
    red, tone = _complexion(rng, values, x, y)
    face = np.stack(
        [red, level * tone, gloss, _strands(rng, values, x, y), _gaps(rng, values, x, y)], axis=-1
    )
    return Photograph(
        lighting=np.array([lighting[name] for name in LIGHTING], np.float32),
        face=face.astype(np.float32),
        background=_background(rng, size),
    )


def _hill(x, y):
    """A Gaussian hill of height 1."""
    return np.exp(-0.5 * x * x) * np.exp(-0.5 * y * y)


def _relief(rng, p, x, y):
    """Height of the face's features above the egg, in half pictures."""
    u = lambda low, high: rng.uniform(low, high)
    side = np.abs(x)
    brow = p["eye_y"] - p["brow_y"]
    mouth = p["mouth_y"] - 0.03
    h = u(0.03, 0.06) * _hill(x / 0.065, (y - p["nose_y"] + 0.11) / 0.12)
    h = h + u(0.05, 0.085) * _hill(x / (0.7 * p["nose_w"]), (y - p["nose_y"]) / 0.055)
    h = h + u(0.03, 0.06) * _hill((side - 0.85 * p["nose_w"]) / 0.028, (y - p["nose_y"] - 0.02) / 0.032)
    h = h + u(0.04, 0.1) * _hill((side - 0.27) / 0.1, (y - 0.12) / 0.1)
    h = h - u(0.05, 0.09) * _hill(
        (side - p["eye_dx"] + 0.02) / (1.1 * p["eye_w"]), (y - p["eye_y"] + 0.02) / 0.06
    )
    h = h + u(0.02, 0.05) * _hill((side - p["eye_dx"]) / 0.13, (y - brow + 0.03) / 0.045)
    h = h + u(0.02, 0.07) * _hill(x / 0.12, (y - p["head_h"] + 0.12) / 0.08)
    h = h - u(0.01, 0.04) * _hill(x / 0.12, (y - mouth - 0.13) / 0.035)
    h = h - u(0.004, 0.012) * _hill(x / 0.02, (y - mouth + 0.09) / 0.04)
    h = h + u(0.01, 0.03) * _hill(x / (0.9 * p["mouth_w"]), (y - mouth) / 0.07)
    return h


def _fold(x, y, start, end, bend, width):
    """A soft line from one point to another, bent outwards; 1 in its middle."""
    (x0, y0), (x1, y1) = start, end
    t = np.clip((y - y0) / (y1 - y0), 0.0, 1.0)
    line = x0 + (x1 - x0) * t + bend * t * (1.0 - t)
    ends = np.clip(np.minimum(y - y0, y1 - y) / (0.35 * (y1 - y0)) + 0.2, 0.0, 1.0)
    return np.exp(-0.5 * np.square((np.abs(x) - line) / width)) * ends


def _light(rng, p, x, y, light, key):
    """Level of light on the skin, about 1, and what shines."""
    u = lambda low, high: rng.uniform(low, high)
    step = 2 * REACH / MAP
    height = _relief(rng, p, x, y)
    down, right = np.gradient(height, step)
    nx, ny = np.clip(x / p["head_w"], -0.97, 0.97), np.clip(y / p["head_h"], -0.97, 0.97)
    nz = np.sqrt(np.maximum(1.0 - nx * nx - ny * ny, 0.06))
    steep = 0.75
    nx, ny = nx - steep * right * nz, ny - steep * down * nz
    norm = np.sqrt(nx * nx + ny * ny + nz * nz)
    nx, ny, nz = nx / norm, ny / norm, nz / norm
    lambert = nx * light[0] + ny * light[1] + nz * light[2]
    wrap = 0.25
    level = 1.0 - key + 1.12 * key * np.clip((lambert + wrap) / (1 + wrap), 0.0, 1.0) ** 1.2
    # Hollows see less of the sky.
    level = level * (1.0 + np.clip(2.2 * (height - gaussian_filter(height, 5)), -0.3, 0.12))
    side = np.abs(x)
    eye, mouth = p["eye_y"], p["mouth_y"] - 0.03
    crease = p["eye_h"] * u(1.15, 1.5) * (1.0 - np.square((side - p["eye_dx"]) / (1.35 * p["eye_w"])))
    lid = np.exp(-0.5 * np.square((y - eye + crease) / 0.011)) * (crease > 0)
    level = level * (1.0 - u(0.1, 0.35) * lid)
    bag = p["eye_h"] * u(1.4, 2.0) * (1.0 - np.square((side - p["eye_dx"] + 0.02) / (1.4 * p["eye_w"])))
    level = level * (1.0 - u(0.0, 0.2) * np.exp(-0.5 * np.square((y - eye - bag) / 0.016)) * (bag > 0))
    smile = _fold(
        x, y, (1.15 * p["nose_w"], p["nose_y"] - 0.01), (1.22 * p["mouth_w"], mouth + 0.02), 0.05, 0.014
    )
    level = level * (1.0 - u(0.0, 0.22) * smile)
    nostril = _hill((side - 0.42 * p["nose_w"]) / 0.02, (y - p["nose_y"] - 0.045) / 0.013)
    level = level * (1.0 - u(0.35, 0.6) * nostril)
    below = _hill((x + 0.05 * light[0]) / (0.9 * p["nose_w"]), (y - p["nose_y"] - 0.075) / 0.03)
    level = level * (1.0 - u(0.1, 0.35) * key * below)
    if rng.random() < 0.3:
        for row in range(3):
            line = -0.3 - 0.06 * row + 0.015 * np.cos(5 * x + row)
            level = level * (
                1.0 - u(0.02, 0.08) * np.exp(-0.5 * np.square((y - line) / 0.009)) * (side < 0.3)
            )
    half = light + np.array([0.0, 0.0, 1.0])
    half /= np.linalg.norm(half)
    shine = np.clip(nx * half[0] + ny * half[1] + nz * half[2], 0.0, 1.0)
    gloss = u(0.0, 0.1) * shine ** u(12, 30) + u(0.0, 0.06) * shine**4
    return level, gloss


def _complexion(rng, p, x, y):
    """Red against green, and tone about 1: blotches, zones, freckles and pores."""
    u = lambda low, high: rng.uniform(low, high)
    side = np.abs(x)
    red = u(0.01, 0.035) * noise(rng, (MAP, MAP), 1.4, 2)
    red = red + u(0.0, 0.12) * _hill((side - 0.28) / 0.12, (y - 0.13) / 0.1)
    red = red + u(0.0, 0.08) * _hill(x / 0.08, (y - p["nose_y"]) / 0.06)
    red = red - u(0.0, 0.05) * _hill(x / 0.3, (y + 0.3) / 0.12)
    tone = (
        1.0
        + u(0.015, 0.05) * noise(rng, (MAP, MAP), 1.3, 3)
        + u(0.008, 0.03) * noise(rng, (MAP, MAP), 0.2, 12)
    )
    jaw = _hill(x / 0.4, (y - 0.8 * p["head_h"]) / 0.16)
    tone = tone * (1.0 - u(0.0, 0.12) * (rng.random() < 0.4) * jaw)
    spots = np.zeros((MAP, MAP))
    if rng.random() < 0.3:
        count = rng.integers(40, 200)
        places = rng.normal([0.08, 0.0], [0.12, 0.22], (count, 2))
        rows, columns = np.clip((places / REACH + 1) * MAP / 2, 0, MAP - 1).astype(int).T
        np.add.at(spots, (rows, columns), rng.uniform(0.2, 1.0, count))
        spots = gaussian_filter(spots, u(0.5, 0.8)) * u(0.1, 0.5)
    return red + 0.12 * spots, tone * (1.0 - np.minimum(spots, 0.4))


def _strands(rng, p, x, y):
    """Brightness of the hair's strands, about 1: they fan out from the crown, waved or curled."""
    u = lambda low, high: rng.uniform(low, high)
    crown = p["head_h"] + 0.15
    fall = np.clip((y + crown) / (crown + 0.1), 0.12, 1.0)
    across = (x - 0.6 * p["part"]) / (0.25 + 0.75 * fall)
    wave = u(0.0, 0.08) * np.sin(u(4, 12) * y + u(0, 6) + 3 * x) + u(0.0, 0.06) * noise(rng, (MAP, MAP), 1.8)
    field = noise(rng, (96, MAP), 0.35, 3)
    field = gaussian_filter(field, (u(5, 9), 0.7), mode="wrap")
    coarse = noise(rng, (MAP, MAP), 1.6)
    rows = np.broadcast_to((y + 1.3) * 30, (MAP, MAP))
    columns = (across + wave) * u(55, 85)
    strand = map_coordinates(field / field.std(), [rows, columns], order=1, mode="grid-wrap")
    if rng.random() < 0.25:
        strand = 0.5 * strand + 0.9 * noise(rng, (MAP, MAP), 0.8, 6)
    return np.clip(1.0 + u(0.06, 0.16) * strand + u(0.05, 0.15) * coarse, 0.4, 1.7)


def _gaps(rng, p, x, y):
    """How much skin shows through brows and beard: between the hairs, and more where a brow ends."""
    u = lambda low, high: rng.uniform(low, high)
    side = np.abs(x)
    hairs = 0.5 + 0.5 * np.sin(u(55, 90) * (side + u(-0.6, 0.6) * y) + 1.5 * noise(rng, (MAP, MAP), 1.0, 4))
    across = np.abs(side - p["eye_dx"] + 0.01) / p["brow_w"]
    ends = np.clip((across - 0.55) / 0.45, 0.0, 1.0)
    brow = 1.0 - np.clip(np.abs(y - p["eye_y"] + p["brow_y"] + 0.02) / 0.04 - 1.2, 0.0, 1.0)
    beard = np.clip((y - p["nose_y"] - 0.05) / 0.05, 0.0, 1.0) * (side > 1.3 * p["mouth_w"])
    # Under the nose no lower than an open mouth's lip reaches up.
    lip = (y > p["nose_y"] + 0.04) & (y < p["mouth_y"] - 0.12)
    beard = np.maximum(beard, lip) * (p["beard"] > 0)
    return np.maximum(brow * np.maximum(u(0.2, 0.5) * hairs, ends), 0.5 * hairs * beard)


def _background(rng, size):
    """A background out of focus, a wall or a scene of blurred shapes, with the camera's noise; and cloth."""
    u = lambda low, high, shape=None: rng.uniform(low, high, shape)
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    x, y = axis[None, :], axis[:, None]
    base = u(0.1, 0.9) * (1 + u(-0.12, 0.12, 3))
    slope = u(-0.25, 0.25) * x + u(-0.25, 0.25) * y
    field = noise(rng, (size, size), u(1.5, 2.2))
    if rng.random() < 0.45:
        picture = base * (1 + slope[..., None]) + u(0.005, 0.03) * field[..., None]
    else:
        other = u(0.05, 0.95) * (1 + u(-0.15, 0.15, 3))
        shapes = u(0.2, 0.8) * field
        for _ in range(rng.integers(2, 7)):
            cx, cy, wide, high = u(-1, 1), u(-1, 1), u(0.05, 0.6), u(0.1, 1.5)
            shapes = shapes + u(-1.5, 1.5) * ((np.abs(x - cx) < wide) & (np.abs(y - cy) < high))
        blurred = gaussian_filter(shapes, size * u(0.015, 0.06))
        mixed = 1 / (1 + np.exp(-1.5 * blurred))[..., None]
        tint = gaussian_filter(noise(rng, (size, size), 1.7), size * 0.03)[..., None] * u(-0.04, 0.04, 3)
        picture = (base + (other - base) * mixed + tint) * (1 + 0.5 * slope[..., None])
    grain = rng.normal(size=(size, size, 3)) + rng.normal(size=(size, size, 1))
    picture = picture + u(0.002, 0.012) * grain
    folds = 1.0 + u(0.04, 0.14) * noise(rng, (size, size), u(1.2, 1.7)) + u(0.0, 0.03) * grain[..., 0]
    planes = np.concatenate([np.clip(picture, 0.0, 1.0), np.clip(folds, 0.0, 2.0)[..., None]], axis=-1)
    return planes.astype(np.float32)
