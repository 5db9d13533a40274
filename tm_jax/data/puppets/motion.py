"""What a puppet does: mouth from phonemes, and a head that lives whether it speaks or listens.

Everything is a function of time that does not depend on how long the clip is, so that a short clip is the
beginning of a long one.  The mouth is causal: it follows each phoneme through a critically damped filter with
a lag of about 55 ms, so the sound leads the mouth and a model without lookahead can know it.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.signal import lfilter

from tm_jax.data.puppets.draw import MOTION
from tm_jax.data.puppets.visemes import visemes

FPS = 25
_STEP = 0.0025
"""Seconds between the samples of the mouth's targets."""
_PER_FRAME = round(1 / (FPS * _STEP))
_LAG = 0.055
_CLOSURE_RATE = 95.0
"""1/s; lips meet and part faster than the jaw moves."""
_CALM = 0.45
"""Share of a lively person's sway: features then move by 1.3 pixels of 128, one standard deviation.  At twice
that, a model of a few million parameters draws no clean hair and eyes."""


@dataclasses.dataclass(frozen=True)
class Phoneme:
    """One phoneme on the clip's clock."""

    symbol: str
    start: float
    end: float


def _follow(target: np.ndarray, rate: float) -> np.ndarray:
    """Critically damped second-order filter: two equal poles at `rate` 1/s; its lag is 2/rate seconds."""
    decay = np.exp(-rate * _STEP)
    for _ in range(2):
        target = lfilter([1 - decay], [1, -decay], target)
    return target


def mouth(phonemes: list[Phoneme], frames: int) -> dict[str, Float[np.ndarray, " t"]]:
    """Opening, width and rounding of the mouth at every frame.

    Diphthongs and affricates share their time among their parts.  At m, b and p the lips meet for at least
    90 ms, however short the phoneme, so that a camera at 25 fps sees them closed.
    """
    count = frames * _PER_FRAME
    target = np.zeros((3, count))
    parted = np.ones(count)
    for phoneme in phonemes:
        parts = visemes(phoneme.symbol)
        length = (phoneme.end - phoneme.start) / len(parts)
        for i, part in enumerate(parts):
            start = phoneme.start + i * length
            a, b = round(start / _STEP), round((start + length) / _STEP)
            target[:, a:b] = np.array([[part.opening], [part.width], [part.rounding]])
            if part.closure:
                parted[a + 2 : max(b + 8, a + 38)] = 0.0
    rate = 2 / _LAG
    opening, width, rounding = (_follow(row, rate) for row in target)
    opening = opening * _follow(parted - 1.0, _CLOSURE_RATE) + opening
    at = slice(0, count, _PER_FRAME)
    return {
        "opening": np.clip(opening[at], 0.0, 1.0),
        "width": np.clip(width[at], -1.0, 1.0),
        "rounding": np.clip(rounding[at], 0.0, 1.0),
    }


def _sway(rng: np.random.Generator, time: np.ndarray, low: float, high: float) -> np.ndarray:
    """A sum of five sines between `low` and `high` Hz with unit variance, starting from 0."""
    frequency = np.geomspace(low, high, 5) * rng.uniform(0.85, 1.15, 5)
    phase = rng.uniform(0, 2 * np.pi, 5)
    weight = frequency**-0.5
    weight /= np.sqrt(0.5 * np.sum(weight**2))
    wave = lambda t: np.sin(2 * np.pi * t[:, None] * frequency[None, :] + phase[None, :]) @ weight
    return np.clip(wave(time) - wave(np.zeros(1)) * np.exp(-time / 1.2), -2.2, 2.2)


def _blinks(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """0 open … 1 shut: down in 60 ms, shut for 60, up in 100; one every 2 to 5 s."""
    lids, at = np.zeros_like(time), rng.uniform(0.8, 3.0)
    while at < time[-1] + 1:
        s = time - at
        lids = np.maximum(lids, np.clip(np.minimum((s + 0.09) / 0.06, (0.13 - s) / 0.1), 0.0, 1.0))
        at += rng.uniform(2.0, 5.0)
    return lids


def _gaze(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Two columns −1 … 1: the eyes rest ahead, or wander for a second or two and come back."""
    x, y = np.zeros_like(time), np.zeros_like(time)
    at, away = rng.uniform(0.6, 2.0), True
    while at < time[-1] + 1:
        goal = rng.uniform([-0.9, -0.7], [0.9, 0.7]) if away else rng.uniform(-0.12, 0.12, 2)
        s = np.clip((time - at) / 0.24, 0.0, 1.0)
        s = s * s * (3 - 2 * s)
        x, y = x + (goal[0] - x) * s, y + (goal[1] - y) * s
        at += rng.uniform(0.7, 1.8) if away else rng.uniform(1.0, 2.8)
        away = not away
    return np.stack([x, y], axis=1)


def _nods(rng: np.random.Generator, time: np.ndarray, listening: list[tuple[float, float]]) -> np.ndarray:
    """Small nods while listening: one or two dips of the head in each stretch longer than a second."""
    pitch = np.zeros_like(time)
    for start, end in listening:
        shift, depth, twice = rng.uniform(0.2, 0.5), rng.uniform(0.5, 0.95), rng.random() < 0.6
        if end - start < 1.0:
            continue
        for i in range(1 + twice):
            s = np.clip((time - start - shift - 0.42 * i) / 0.5, 0.0, 1.0)
            pitch = pitch + depth * 0.75**i * np.sin(np.pi * s) ** 2
    return pitch


def head(
    rng: np.random.Generator, frames: int, listening: list[tuple[float, float]]
) -> dict[str, Float[np.ndarray, " t"]]:
    """Head, lids, gaze and breath at every frame; all of them neutral at frame 0."""
    time = np.arange(frames) / FPS
    # Each part draws from its own stream: a longer clip must not shift another part's numbers.
    streams = iter(rng.spawn(10))
    sway = lambda low, high: _sway(next(streams), time, low, high)
    x, y, angle = (_CALM * sway(*band) for band in ((0.07, 0.45), (0.1, 0.6), (0.08, 0.5)))
    yaw, pitch = (_CALM * sway(*band) for band in ((0.08, 0.45), (0.12, 0.7)))
    brow = sway(0.15, 0.5)
    blink, gaze = _blinks(next(streams), time), _gaze(next(streams), time)
    nod = _nods(next(streams), time, listening)
    breath = np.sin(2 * np.pi * 0.28 * time)
    return {
        "x": 0.02 * x + 0.014 * yaw,
        "y": 0.011 * y + 0.02 * nod,
        "angle": 0.028 * angle,
        "yaw": np.clip(0.45 * yaw, -1, 1),
        "pitch": np.clip(0.3 * pitch, -0.8, 0.8) + 0.9 * nod,
        "blink": blink,
        "gaze_x": gaze[:, 0],
        "gaze_y": gaze[:, 1],
        "brow": np.clip(0.4 * brow, -1, 1),
        "breath": breath,
    }


def columns(parts: dict[str, np.ndarray]) -> Float[np.ndarray, "t motion"]:
    """The motion array that the renderer reads."""
    return np.stack([parts[name] for name in MOTION], axis=1).astype(np.float32)
