"""The reader's training: still faces of known pose and identity, drawn by the puppets' own renderer.

Poses are drawn at random, wider than the puppets ever move and independent of any speech, so that the
reader can't learn what a mouth usually does: it has to look.  Frames are blurred, coloured and covered
with fine and coarse noise, so that what a VAE or a sampler leaves behind doesn't mislead it.
"""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, PRNGKeyArray, UInt8

from tm_jax.data.puppets.draw import MOTION, render
from tm_jax.data.puppets.identity import draw_identity
from tm_jax.evaluation.reader import TRACKS, Reader, ReaderConfig, true_tracks
from tm_jax.evaluation.statistics import pearson
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig, make_optimizer
from tm_jax.training.state import TrainState

TRAITS = (
    *(f"{part}_{axis}" for part in ("skin", "hair", "iris", "lip", "cloth", "low", "high") for axis in "rgb"),
    *("head_w", "head_h", "taper", "shoulder_w", "neck_w", "eye_w", "eye_h", "eye_dx", "mouth_w", "brow_th"),
    *("hair_on", "hair_vol", "hairline", "hair_len", "glasses", "beard", "light"),
    *("is_shaded", "is_anime"),
)
"""The identity's parameters that show in every frame."""


@dataclasses.dataclass(frozen=True)
class FacesConfig:
    """Which still faces are drawn."""

    identities: int = 1500
    """Identities of the training split."""
    poses: int = 16
    """Frames of each identity; together they are one element of a batch."""
    size: int = 128
    """Side in pixels at which faces are drawn."""
    seed: int = 0
    """Seed of the world and of the poses."""
    split: str = "train"
    """train or heldout."""


@dataclasses.dataclass(frozen=True)
class ReadingLoss:
    """Weights of the reader's loss and strength of what is done to its frames."""

    opening: float = 4.0
    """Weight of the mouth's opening; every other track weighs 1."""
    traits: float = 0.5
    """Weight of the identity's traits."""
    steady: float = 0.1
    """Weight of the embedding's spread over the poses of one identity against that over identities."""
    noise: float = 0.08
    """Largest spread of the noise of single pixels, in [−1, 1] units."""
    coarse: float = 0.12
    """Largest spread of the noise of 8×8 cells."""
    colour: float = 0.06
    """Spread of each channel's gain and shift."""


def draw_poses(rng: np.random.Generator, count: int) -> Float32[np.ndarray, "count motion"]:
    """Random columns of the renderer's motion: extremes of mouth and eyes are as common as the middle."""
    u = rng.uniform
    shut = rng.random(count) < 0.15
    small = rng.random(count) < 0.3
    blink = np.where(rng.random(count) < 0.3, u(0, 1, count), u(0, 0.12, count))
    opening = np.where(small, u(0, 0.25, count), u(0, 1.08, count))
    columns = {
        "x": rng.normal(0, 0.05, count),
        "y": rng.normal(0, 0.04, count),
        "angle": rng.normal(0, 0.08, count),
        "yaw": u(-1, 1, count),
        "pitch": u(-1, 1, count),
        "blink": np.where(rng.random(count) < 0.1, 1.0, blink),
        "gaze_x": u(-1, 1, count),
        "gaze_y": u(-1, 1, count),
        "brow": u(-1, 1, count),
        "opening": np.where(shut, 0.0, opening),
        "width": u(-1, 1, count),
        "rounding": np.where(rng.random(count) < 0.5, u(0, 1, count), 0.0),
        "breath": u(-1, 1, count),
    }
    return np.stack([columns[name] for name in MOTION], axis=1).astype(np.float32)


class Faces:
    """Identities in random poses: {"frames" [k y x 3] uint8, "tracks" [k tracks], "traits" [traits]}.

    Frames are kept at the reader's own size once they have been drawn.
    """

    def __init__(self, config: FacesConfig, size: int):
        self.config, self.size = config, size
        self._drawn: dict[int, dict[str, np.ndarray]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.config.identities

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        with self._lock:
            if index not in self._drawn:
                self._drawn[index] = self._draw(int(index))
            return self._drawn[index]

    def _draw(self, index: int) -> dict[str, np.ndarray]:
        config = self.config
        identity = draw_identity(config.seed, config.split, index)
        motion = draw_poses(np.random.default_rng([config.seed, 77, index]), config.poses)
        frames = render(identity.vector(), motion, config.size)
        return {
            "frames": _smaller(frames, self.size),
            "tracks": true_tracks(motion, identity.values),
            "traits": np.array([identity.values[name] for name in TRAITS], np.float32),
        }

    def units(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Mean and spread of the tracks, then of the traits, over the first few hundred identities."""
        tracks, traits = [], []
        for index in range(min(400, len(self))):
            identity = draw_identity(self.config.seed, self.config.split, index)
            motion = draw_poses(np.random.default_rng([self.config.seed, 77, index]), self.config.poses)
            tracks.append(true_tracks(motion, identity.values))
            traits.append([identity.values[name] for name in TRAITS])
        tracks, traits = np.concatenate(tracks), np.array(traits)
        return tracks.mean(0), tracks.std(0) + 1e-3, traits.mean(0), traits.std(0) + 1e-2


def _smaller(frames: UInt8[np.ndarray, "k y x 3"], size: int) -> UInt8[np.ndarray, "k size size 3"]:
    factor = frames.shape[1] // size
    cells = frames.reshape(len(frames), size, factor, size, factor, 3).mean((2, 4), dtype=np.float32)
    return np.round(cells).astype(np.uint8)


def disturb(
    frames: Float[Array, "b y x 3"], key: PRNGKeyArray, terms: ReadingLoss
) -> Float[Array, "b y x 3"]:
    """Each frame blurred, tinted and noisy by its own amounts; some hardly at all."""
    count, size = frames.shape[0], frames.shape[1]
    keys = jax.random.split(key, 7)
    amount = lambda k, most: most * jnp.square(jax.random.uniform(k, (count, 1, 1, 1)))
    padded = jnp.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    soft = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    share = amount(keys[0], 1.0)
    x = frames + share * (soft - frames)
    gain = 1 + terms.colour * jax.random.normal(keys[1], (count, 1, 1, 3))
    shift = terms.colour * jax.random.normal(keys[2], (count, 1, 1, 3))
    fine = amount(keys[3], terms.noise) * jax.random.normal(keys[4], frames.shape)
    cells = jax.random.normal(keys[5], (count, size // 8, size // 8, 3))
    coarse = jax.image.resize(cells, frames.shape, "linear") * amount(keys[6], terms.coarse)
    return x * gain + shift + fine + coarse


def reading_loss(
    reader: Reader,
    frames: Float[Array, "b k y x 3"],
    tracks: Float[Array, "b k tracks"],
    traits: Float[Array, "b traits"],
    key: PRNGKeyArray,
    terms: ReadingLoss,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Squared errors of standardised tracks and traits, and how steady the embedding is over poses."""
    people, poses = frames.shape[:2]
    seen = reader(disturb(frames.reshape(-1, *frames.shape[2:]), key, terms))
    error = jnp.square(seen.tracks.reshape(tracks.shape) - tracks)
    # Where the eyes are shut there is no gaze to read.
    eyes = TRACKS.index("eyes")
    openness = tracks[..., eyes] * reader.config.track_std[eyes] + reader.config.track_mean[eyes]
    gaze = jnp.asarray([name.startswith("gaze") for name in TRACKS])[None, None]
    error = error * jnp.where(gaze, jnp.clip(openness, 0, 1)[..., None], 1.0)
    weight = jnp.asarray([terms.opening if name == "opening" else 1.0 for name in TRACKS])
    each = error.mean((0, 1))
    traits_loss = jnp.mean(jnp.square(seen.traits.reshape(people, poses, -1) - traits[:, None]))
    embedding = seen.identity.reshape(people, poses, -1)
    within = embedding.var(1).mean()
    between = embedding.mean(1).var(0).mean()
    steady = within / (between + 1e-3)
    loss = (weight * each).sum() / weight.sum() + terms.traits * traits_loss + terms.steady * steady
    named = {name: each[index] for index, name in enumerate(TRACKS) if name in ("opening", "eyes", "x")}
    return loss, {"loss": loss, "traits": traits_loss, "steady": steady, **named}


@dataclasses.dataclass(frozen=True)
class ReaderExperiment:
    """Everything that decides a reader's training."""

    loop: LoopConfig
    model: ReaderConfig = ReaderConfig(traits=len(TRAITS))
    optim: OptimConfig = OptimConfig()
    loss: ReadingLoss = ReadingLoss()
    faces: FacesConfig = FacesConfig()
    ema: float = 0.995
    """Decay of the average of the parameters that is shipped."""

    def build(self) -> "ReadingPhase":
        """The phase that the loop runs."""
        return ReadingPhase(self)


class ReadingPhase:
    """Supervised reading of still faces; the loop's Phase."""

    def __init__(self, config: ReaderExperiment):
        self.config = config
        self.tx = make_optimizer(config.optim)
        self.faces = Faces(config.faces, config.model.size)
        track_mean, track_std, self._trait_mean, self._trait_std = self.faces.units()
        self.model = dataclasses.replace(
            config.model, track_mean=tuple(track_mean.tolist()), track_std=tuple(track_std.tolist())
        )
        self._step = jax.jit(chex.assert_max_traces(self._update, n=1), donate_argnums=0)
        self._look = jax.jit(lambda reader, frames: reader(frames).tracks)

    def init(self, key: jax.Array) -> TrainState:
        """A fresh reader."""
        weights, draws = jax.random.split(key)
        return TrainState.create(Reader(self.model, rngs=nnx.Rngs(weights)), self.tx, draws)

    def start(self, state: TrainState) -> TrainState:
        """The same: a reader starts from nothing."""
        return state

    def _update(self, state: TrainState, batch: dict) -> tuple[TrainState, dict[str, jax.Array]]:
        frames = batch["frames"].astype(jnp.float32) / 127.5 - 1
        mean, std = (jnp.asarray(x)[None, None] for x in (self.model.track_mean, self.model.track_std))
        traits = (batch["traits"] - self._trait_mean[None]) / self._trait_std[None]
        gradients, metrics = jax.grad(reading_loss, has_aux=True)(
            state.model,
            frames,
            (batch["tracks"] - mean) / std,
            traits.astype(jnp.float32),
            state.draw(),
            self.config.loss,
        )
        return state.apply(gradients, self.tx, self.config.ema), metrics

    def step(self, state: TrainState, batch: dict, index: int) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update."""
        return self._step(state, batch)

    def work(self, index: int) -> tuple[float, float]:
        """Not counted."""
        return 0.0, 0.0

    def made_of(self) -> dict[str, str]:
        """Nothing: a checkpoint goes on by itself."""
        return {}

    def dataset(self) -> grain.MapDataset:
        """Training identities in random poses."""
        return grain.MapDataset.source(self.faces)

    def preview(self, state: TrainState, folder: Path, index: int) -> dict[str, float]:
        """Correlation of each track, over 30 held-out identities in 16 poses each."""
        config = dataclasses.replace(self.config.faces, split="heldout", identities=30)
        faces = Faces(config, self.model.size)
        elements = [faces[number] for number in range(len(faces))]
        frames = np.concatenate([element["frames"] for element in elements]).astype(np.float32) / 127.5 - 1
        truth = np.concatenate([element["tracks"] for element in elements])
        found = np.asarray(self._look(state.ema, frames))
        return {f"r_{name}": pearson(found[:, i], truth[:, i]) for i, name in enumerate(TRACKS)}

    def weights(self, state: TrainState) -> Reader:
        """The averaged reader."""
        return state.ema

    def describe(self) -> dict[str, Any]:
        """Nothing beside the config."""
        return {}
