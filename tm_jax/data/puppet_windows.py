"""Short windows of puppets moving at random: what the VAE trains on.

No speech is needed to learn to reconstruct, so the mouth takes random shapes, more widely spread than
any speech would, and a window costs only its own frames.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from tm_jax.data.puppets.draw import MOTION, render
from tm_jax.data.puppets.variety import PLAIN, Variety, appearance

# Standard deviation and correlation time in frames of each wandering quantity.
_WANDER = {
    "x": (0.035, 25), "y": (0.025, 25), "angle": (0.05, 25), "yaw": (0.4, 25), "pitch": (0.4, 25),
    "gaze_x": (0.4, 12), "gaze_y": (0.3, 12), "brow": (0.4, 15), "breath": (0.5, 25),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """Which windows the VAE sees."""

    split: str = "train"
    """train, heldout or language: the identities' split."""
    identities: int = 3000
    """Different characters."""
    windows: int = 1_000_000
    """Windows in an epoch; they are drawn when they are asked for."""
    frames: int = 13
    """Frames a window, 1 + 4k."""
    size: int = 128
    """Height and width in pixels."""
    seed: int = 0
    crop: int = 0
    """Side of the squares that are cut out of each window, one round the mouth and one anywhere; 0 for
    whole frames.  Squares make small, quick steps while there is everything to learn."""
    variety: Variety = PLAIN
    """Framing and photograph-like faces."""


def random_motion(rng: np.random.Generator, frames: int) -> Float[np.ndarray, "t motion"]:
    """A window of random motion: wandering head and gaze, blinks, a mouth that never rests long."""
    columns = {name: np.zeros(frames, np.float32) for name in MOTION}
    for name, (spread, time) in _WANDER.items():
        keep = np.exp(-1 / time)
        steps = rng.normal(0, spread, frames)
        steps[1:] *= np.sqrt(1 - keep**2)
        for t in range(1, frames):
            steps[t] += keep * steps[t - 1]
        columns[name] = np.clip(steps, -3 * spread, 3 * spread)
    if rng.random() < 0.8:
        for name, low, high in (("opening", 0, 1), ("width", -1, 1), ("rounding", 0, 1)):
            hold = rng.integers(2, 6)
            targets = rng.uniform(low, high, frames // hold + 2)
            if name == "opening":
                targets *= rng.random(len(targets)) < 0.8
            path = np.repeat(targets, hold)[: frames + 1]
            for t in range(1, len(path)):
                path[t] = 0.45 * path[t - 1] + 0.55 * path[t]
            columns[name] = path[1:]
        columns["rounding"] = columns["rounding"] * (columns["width"] < 0)
    if rng.random() < 0.4:
        centre = rng.integers(0, frames)
        columns["blink"] = np.clip(1.4 - np.abs(np.arange(frames) - centre) / 1.7, 0, 1)
    return np.stack([columns[name] for name in MOTION], axis=1).astype(np.float32)


class PuppetWindows:
    """A random-access source of windows: {"frames": uint8 [crops t y x 3]}."""

    def __init__(self, config: WindowConfig):
        self.config = config

    def __len__(self) -> int:
        return self.config.windows

    def __getitem__(self, index: int) -> dict[str, UInt8[np.ndarray, "crops t y x 3"]]:
        config = self.config
        rng = np.random.default_rng((config.seed, index))
        number = int(rng.integers(config.identities))
        shown = appearance(config.variety, config.seed, config.split, number)
        motion = random_motion(rng, config.frames)
        frames = render(shown.identity.vector(), motion, config.size, shown.look(config.size))
        if not config.crop:
            return {"frames": frames[None]}
        spare = config.size - config.crop
        right, down = shown.camera.seen(0.0, 0.3)
        middle = (np.array([down, right]) + 1) * config.size / 2
        mouth = middle - config.crop / 2 + rng.uniform(-8, 8, 2)
        corners = [np.clip(mouth, 0, spare).astype(int), rng.integers(0, spare + 1, 2)]
        cut = [frames[:, y : y + config.crop, x : x + config.crop] for y, x in corners]
        return {"frames": np.stack(cut)}
