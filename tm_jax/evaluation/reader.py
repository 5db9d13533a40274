"""The reader: a small network that reads faces from single frames and never hears audio.

From one frame it reads the mouth's opening and width, the eyes' opening, gaze, and the head's place and
angle (``TRACKS``); an embedding of who it is, trained to carry the identity's traits and nothing of its
expression; and texture features of its early layers, which know blur and noise when they see them.  All
evaluation rests on these numbers, so that lip-sync cannot be faked by whatever drew the mouth.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Shaped

from tm_jax.data.puppets.draw import MOTION
from tm_jax.errors import InputError

TRACKS = ("opening", "width", "eyes", "gaze_x", "gaze_y", "x", "y", "angle", "yaw", "pitch")
"""Opening 0 … 1, width −1 … 1, eyes 0 shut … 1 open, gaze −1 … 1, place of the head in half pictures, its
angle in radians, its turn −1 … 1."""
HEAD = ("x", "y", "angle")
GAZE = ("gaze_x", "gaze_y")
EYES = ("eyes", *GAZE)


@dataclasses.dataclass(frozen=True)
class ReaderConfig:
    """Size of the reader and the units of what it reads."""

    size: int = 64
    """Side to which frames are averaged down before reading."""
    channels: tuple[int, int, int] = (24, 48, 96)
    """Channels at a half, a quarter and an eighth of that size."""
    hidden: int = 128
    """Width of the layer from which the tracks are read."""
    identity: int = 48
    """Numbers in the embedding of who it is."""
    traits: int = 40
    """Traits of the identity that the embedding is trained to tell."""
    track_mean: tuple[float, ...] = (0.0,) * len(TRACKS)
    """Mean of each track over the training frames."""
    track_std: tuple[float, ...] = (1.0,) * len(TRACKS)
    """Spread of each track over the training frames."""


@flax.struct.dataclass
class Seen:
    """What the network says of a batch of frames."""

    tracks: Float[Array, "b tracks"]
    """Standardised tracks, in the order of ``TRACKS``."""
    traits: Float[Array, "b traits"]
    """Standardised traits of the identity."""
    identity: Float[Array, "b identity"]
    """The embedding from which the traits are read."""
    features: Float[Array, "b features"]
    """Mean and spread over space of each stage's activations, and the layer before the tracks."""


class Residual(nnx.Module):
    """x + conv(silu(x)), scaled to keep its variance."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(width, width, (3, 3), rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Same shape."""
        return x + self.conv(nnx.silu(_normalise(x)))


def _normalise(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-4)


class Reader(nnx.Module):
    """Three strided convolutions with a residual block each, then one head for pose and one for identity."""

    def __init__(self, config: ReaderConfig, *, rngs: nnx.Rngs):
        self.config = config
        half, quarter, eighth = config.channels
        strided = functools.partial(nnx.Conv, strides=(2, 2), rngs=rngs)
        self.down = nnx.List(
            [strided(3, half, (5, 5)), strided(half, quarter, (3, 3)), strided(quarter, eighth, (3, 3))]
        )
        self.blocks = nnx.List([Residual(width, rngs=rngs) for width in (quarter, eighth)])
        self.squeeze = nnx.Conv(eighth, 24, (1, 1), rngs=rngs)
        cells = 24 * (config.size // 8) ** 2
        self.hidden = nnx.Linear(cells, config.hidden, rngs=rngs)
        self.tracks = nnx.Linear(config.hidden, len(TRACKS), rngs=rngs)
        self.identity = nnx.Linear(cells + 2 * eighth, config.identity, rngs=rngs)
        self.traits = nnx.Linear(config.identity, config.traits, rngs=rngs)

    def __call__(self, frames: Float[Array, "b y x 3"]) -> Seen:
        """Read frames in [−1, 1] whose side is a whole multiple of the config's size."""
        x = _average_down(frames, self.config.size)
        stages = []
        for level, down in enumerate(self.down):
            x = down(x if level == 0 else nnx.silu(x))
            if level:
                x = self.blocks[level - 1](x)
            stages.append(_pooled(x))
        x = nnx.silu(_normalise(x))
        cells = nnx.silu(self.squeeze(x)).reshape(x.shape[0], -1)
        hidden = nnx.silu(self.hidden(cells))
        identity = self.identity(jnp.concatenate([cells, _pooled(x)], axis=-1))
        return Seen(
            tracks=self.tracks(hidden),
            traits=self.traits(identity),
            identity=identity,
            features=jnp.concatenate([*stages, hidden], axis=-1),
        )


def _pooled(x: Array) -> Array:
    """Mean and spread over space."""
    mean = jnp.mean(x, axis=(1, 2))
    return jnp.concatenate([mean, jnp.sqrt(jnp.var(x, axis=(1, 2)) + 1e-6)], axis=-1)


def _average_down(frames: Array, size: int) -> Array:
    batch, height, width, colours = frames.shape
    if height % size or width % size:
        raise InputError(
            f"frames of {height}×{width} cannot be read by a reader of {size}×{size}: "
            "give frames whose sides are multiples of it"
        )
    return frames.reshape(batch, size, height // size, size, width // size, colours).mean((2, 4))


def true_tracks(
    motion: Float[np.ndarray, "t motion"], values: dict[str, float]
) -> Float32[np.ndarray, "t tracks"]:
    """What the reader should read from these motions; the head's place includes its resting place."""
    column = lambda name: motion[:, MOTION.index(name)]
    special = {
        "eyes": 1 - column("blink"),
        "x": column("x") + values["head_x"],
        "y": column("y") + values["head_y"],
    }
    columns = [special[name] if name in special else column(name) for name in TRACKS]
    return np.stack(columns, axis=1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was read from each frame of n clips."""

    tracks: Float[np.ndarray, "n t tracks"]
    """In the units of the training data."""
    identity: Float[np.ndarray, "n t identity"]
    features: Float[np.ndarray, "n t features"]
    track_std: tuple[float, ...]
    """Spread of each track over the training frames."""

    def track(self, name: str) -> Float[np.ndarray, "n t"]:
        """One track by name."""
        return self.tracks[..., TRACKS.index(name)]

    def standard(self, names: tuple[str, ...]) -> Float[np.ndarray, "n t k"]:
        """Several tracks in units of their spread, so that pixels and radians may be added up."""
        columns = [TRACKS.index(name) for name in names]
        return self.tracks[..., columns] / np.asarray(self.track_std)[columns]


@jax.jit
def _read_batch(reader: Reader, frames: Array) -> Seen:
    return reader(frames.astype(jnp.float32) / 127.5 - 1)


def read(reader: Reader, frames: Shaped[np.ndarray, "n t y x 3"], batch: int = 128) -> Reading:
    """Read every frame of n clips: uint8, or floats in [−1, 1]; compiled once whatever the length."""
    clips, length = frames.shape[:2]
    flat = frames.reshape(-1, *frames.shape[2:])
    parts = []
    for start in range(0, len(flat), batch):
        block = flat[start : start + batch]
        if block.dtype != np.uint8:
            block = (np.clip(np.asarray(block, np.float32), -1, 1) + 1) * 127.5
        padded = np.zeros((batch, *block.shape[1:]), np.float32)
        padded[: len(block)] = block
        seen = _read_batch(reader, padded)
        parts.append([np.asarray(x)[: len(block)] for x in (seen.tracks, seen.identity, seen.features)])
    joined = (np.concatenate(pieces).reshape(clips, length, -1) for pieces in zip(*parts, strict=True))
    tracks, identity, features = joined
    config = reader.config
    return Reading(
        tracks=tracks * np.asarray(config.track_std) + np.asarray(config.track_mean),
        identity=identity,
        features=features,
        track_std=config.track_std,
    )


def identity_distance(
    identity: Float[np.ndarray, "t identity"], reference: Float[np.ndarray, " identity"]
) -> Float[np.ndarray, " t"]:
    """Distance of each frame's embedding from the reference's, in units where the embedding's spread is 1."""
    return np.sqrt(np.square(np.asarray(identity, np.float64) - reference).mean(-1))
