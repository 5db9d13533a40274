"""A world of more variety than the plain one: framing by a camera, and faces as photographs show them.

The plain world is what all figures are measured on; this one is for training.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from tm_jax.data.puppets.identity import SPLITS, Identity, draw_identity
from tm_jax.data.puppets.photograph_maps import Photograph, shade_photograph

Lengths = float | Float[np.ndarray, "..."]
"""In half pictures."""


@dataclasses.dataclass(frozen=True)
class Variety:
    """How far the faces of a world leave the plain one; nothing by default."""

    photographs: float = 0.0
    """Share of identities that look like photographs."""
    scale: float = 0.0
    """Heads are larger or smaller by up to this share."""
    shift: float = 0.0
    """The picture is moved by up to this share of its side, across and down."""
    roll: float = 0.0
    """The camera leans by up to so many degrees."""

    def __post_init__(self):
        if not 0 <= self.photographs <= 1:
            raise ValueError(f"variety: photographs is {self.photographs}; it is a share, 0 to 1")
        # Beyond these a head leaves the picture.
        for name, most in (("scale", 0.25), ("shift", 0.15), ("roll", 20.0)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"variety: {name} is {getattr(self, name)}; give 0 to {most}")


PLAIN = Variety()
VARIED = Variety(photographs=0.5, scale=0.12, shift=0.04, roll=4.0)
"""What an accelerator's presets train on."""


@dataclasses.dataclass(frozen=True)
class Camera:
    """From the world's coordinates to the picture's: scaled and rolled about the middle, then moved."""

    scale: float = 1.0
    right: float = 0.0
    """Half pictures."""
    down: float = 0.0
    roll: float = 0.0
    """Radians, clockwise as the picture shows it."""

    def seen(self, x: Lengths, y: Lengths) -> tuple[Lengths, Lengths]:
        """Where points of the world lie in the picture, in half pictures."""
        cos, sin = self.scale * np.cos(self.roll), self.scale * np.sin(self.roll)
        return cos * x - sin * y + self.right, sin * x + cos * y + self.down

    def vector(self) -> Float32[np.ndarray, "4"]:
        """As the renderer reads it."""
        return np.array(dataclasses.astuple(self), np.float32)


class Look(NamedTuple):
    """How the varied world shows an identity, as the renderer takes it."""

    camera: Float32[np.ndarray, "4"]
    photograph: Photograph | None


@dataclasses.dataclass(frozen=True)
class Appearance:
    """An identity as a world shows it."""

    identity: Identity
    camera: Camera = Camera()
    seed: tuple[int, ...] | None = None
    """What the photograph is drawn from; None is a drawn style."""
    varied: bool = False

    def look(self, size: int) -> Look | None:
        """For the renderer, at a side of so many pixels; None in the plain world."""
        if not self.varied:
            return None
        photograph = None
        if self.seed is not None:
            photograph = shade_photograph(np.random.default_rng(self.seed), self.identity.values, size)
        return Look(self.camera.vector(), photograph)


def appearance(variety: Variety, seed: int, split: str, number: int) -> Appearance:
    """Identity `number` of a split, and how it is shown."""
    if variety == PLAIN:
        return Appearance(draw_identity(seed, split, number))
    path = (seed, SPLITS[split], 7, number)
    rng = np.random.default_rng(path)
    # Every number is drawn whatever the settings, so that each setting changes its own part alone.
    scale, right, down, roll = rng.uniform(-1, 1, 4)
    camera = Camera(
        scale=(1 + variety.scale) ** scale,
        right=2 * variety.shift * right,
        down=2 * variety.shift * down,
        roll=np.radians(variety.roll) * roll,
    )
    if rng.random() >= variety.photographs:
        return Appearance(draw_identity(seed, split, number), camera, varied=True)
    identity = draw_identity(seed, split, number, style="photo")
    identity = dataclasses.replace(identity, values=identity.values | _lifelike(rng, identity.values))
    return Appearance(identity, camera, seed=(*path, 1), varied=True)


def _lifelike(rng: np.random.Generator, v: dict[str, float]) -> dict[str, float]:
    """Proportions between the drawn faces' and a real one's, which is longer and has smaller eyes."""
    u = rng.uniform
    long = u(0, 1)
    eye_w = u(0.088, 0.108)
    eye_h = u(0.034, 0.047)
    tall = 0.65 + 0.15 * long + u(-0.02, 0.02)
    head_w = u(0.475, 0.555) + 0.02 * long
    colour = np.array([v[f"cloth_{axis}"] for axis in "rgb"])
    cloth = u(0.15, 1.0) * (colour + u(0.3, 1.0) * (colour.mean() - colour))
    hair = np.array([v[f"hair_{axis}"] for axis in "rgb"])
    if v["skin_g"] < 0.5 and rng.random() < 0.8:
        hair = hair * u(0.25, 0.6)
    return {
        **{f"hair_{axis}": float(c) for axis, c in zip("rgb", hair, strict=True)},
        **{f"brow_{axis}": float(0.6 * c + 0.03) for axis, c in zip("rgb", hair, strict=True)},
        **{f"cloth_{axis}": float(c) for axis, c in zip("rgb", cloth, strict=True)},
        "head_y": u(-0.07, 0.0),
        "head_w": head_w,
        "head_h": tall,
        "taper": u(0.1, 0.3),
        "ear": u(0.05, 0.075),
        "neck_w": u(0.24, 0.34),
        "shoulder_w": u(0.85, 1.15),
        "shoulder_y": u(0.78, 0.86) + 0.1 * long,
        "neckline_w": u(0.2, 0.36),
        "eye_y": u(-0.08, -0.05) - 0.08 * long,
        "eye_dx": 0.44 * head_w + u(-0.01, 0.012),
        "eye_w": eye_w,
        "eye_h": eye_h,
        "iris": 0.43 * eye_w,
        "lash": u(0.008, 0.018),
        "brow_y": eye_h + u(0.06, 0.09),
        "brow_th": u(0.014, 0.03),
        "brow_w": u(0.12, 0.15),
        "brow_tilt": u(-0.12, 0.12),
        "nose_y": u(0.11, 0.14) + 0.05 * long,
        "nose_w": u(0.075, 0.11),
        "mouth_y": u(0.29, 0.31) + 0.09 * long,
        "mouth_w": u(0.16, 0.215),
        "lip_u": u(0.018, 0.036),
        "lip_l": u(0.028, 0.052),
        "moustache": 0.35 * v["moustache"],
        "beard": 0.8 * v["beard"],
        "hair_vol": u(0.06, 0.24),
        "arch": v["arch"] if v["hair_len"] > 0.3 else u(0.1, 0.24),
        "hairline": v["hairline"] + 0.1 * long,
    }
