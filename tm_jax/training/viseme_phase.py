"""Phase 0: the small speech encoder learns which mouth goes with which sound.

Nothing is drawn: the puppets' sound and the shape of their mouths are all it takes, for minutes of training
on hours of speech.  The squared error of the standardised mouth, at three moments round each token, counts
where the puppet speaks and where it rests alike.
"""

import dataclasses
from pathlib import Path
from typing import Any

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray
from tqdm import tqdm

from tm_jax.audio.log_mel import LogMel, LogMelConfig
from tm_jax.data.puppets.draw import MOTION
from tm_jax.data.puppets.world import FPS, PuppetWorld, Track
from tm_jax.evaluation.statistics import pearson
from tm_jax.models.viseme_config import MOUTH, VisemeConfig
from tm_jax.models.visemes import VisemeEncoder
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig, make_optimizer
from tm_jax.training.state import TrainState

TOKENS_PER_SECOND = 50


@dataclasses.dataclass(frozen=True)
class SoundsConfig:
    """Which sounds are heard, and in what pieces."""

    split: str = "train"
    """train, heldout or language: which voices of the world."""
    count: int = 3000
    """Sounds."""
    seconds: float = 10.0
    """Length of each."""
    piece: int = 96
    """Tokens of 20 ms that one element of a batch tells."""
    seed: int = 0
    """Seed of the world."""


def mouth_track(track: Track, offset: int, count: int) -> np.ndarray:
    """The mouth [count, 3] at ``offset`` tokens after the start of each of the first ``count`` tokens."""
    columns = [MOTION.index(name) for name in MOUTH]
    moments = (np.arange(count) + offset) / TOKENS_PER_SECOND
    frames = np.arange(len(track.motion)) / FPS
    mouth = [np.interp(moments, frames, track.motion[:, column]) for column in columns]
    return np.stack(mouth, -1).astype(np.float32)


class Sounds:
    """Random access to pieces of sound: {"mel" [past + piece, 80], "mouth" [piece, offsets, 3]}."""

    def __init__(self, config: SoundsConfig, model: VisemeConfig):
        self.config, self.model = config, model
        world, front_end = PuppetWorld(seed=config.seed, split=config.split), LogMel()
        self.mel, self.mouth, self.speaking = [], [], []
        for index in tqdm(range(config.count), desc=f"{config.split} sounds", unit="clip", leave=False):
            track = world.truth(index, config.seconds)
            mel = front_end.tokens(track.audio)
            self.mel.append(np.pad(mel, ((model.past, 0), (0, 0))).astype(np.float16))
            mouth = [mouth_track(track, offset, len(mel)) for offset in model.offsets]
            self.mouth.append(np.stack(mouth, axis=1))
            self.speaking.append(np.repeat(track.mode, 2)[: len(mel)] == 1)
        self.pieces = (len(self.mouth[0]) - config.piece) // (config.piece // 2) + 1

    def __len__(self) -> int:
        return len(self.mel) * self.pieces

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        number, place = divmod(index, self.pieces)
        start = place * (self.config.piece // 2)
        stop = start + self.config.piece
        return {
            "mel": self.mel[number][start : stop + self.model.past],
            "mouth": self.mouth[number][start:stop],
        }


@dataclasses.dataclass(frozen=True)
class Disturbances:
    """What makes few voices stand for many: each piece of sound is changed in these ways."""

    warp: float = 0.06
    """Bands are read at up to this share more or less of their place, as longer or shorter throats give."""
    gain: float = 6.0
    """Spread of the gain in dB."""
    noisy: float = 0.4
    """Probability of steady background noise, from white to brown."""
    noise_range: tuple[float, float] = (0.1, 100.0)
    """Least and most power density of the noise, in units of log-mel's floor."""


def disturb(
    mel: Float[Array, "b l mel"], key: PRNGKeyArray, how: Disturbances, config: LogMelConfig = LogMelConfig()
) -> Float[Array, "b l mel"]:
    """Log-mel tokens as another throat, another microphone and another room would have given them."""
    keys = jax.random.split(key, 6)
    batch, count = mel.shape[0], config.bands
    drawn = lambda index, low, high: jax.random.uniform(
        keys[index], (batch, 1, 1, 1), minval=low, maxval=high
    )
    bands = mel.reshape(batch, -1, mel.shape[-1] // count, count)
    place = jnp.arange(count)[None] * (1 + drawn(0, -how.warp, how.warp)[:, :, 0, 0])
    place = jnp.clip(place, 0, count - 1)[:, None, None, :]
    below = jnp.minimum(place.astype(jnp.int32), count - 2)
    read = lambda index: jnp.take_along_axis(bands, index, axis=-1)
    bands = read(below) + (place - below) * (read(below + 1) - read(below))
    power = jnp.expm1(config.scale * bands) * 10 ** (
        how.gain / 10 * jax.random.normal(keys[1], (batch, 1, 1, 1))
    )
    low, high = np.log(how.noise_range)
    tilt = -drawn(2, 0.0, 4.0) * jnp.linspace(-0.5, 0.5, count)[None, None, None, :]
    ripple = 0.3 * jax.random.normal(keys[3], bands.shape)
    noisy = drawn(4, 0.0, 1.0) < how.noisy
    noise = jnp.where(noisy, jnp.exp(drawn(5, low, high) + tilt + ripple), 0.0)
    return (jnp.log1p(power + noise) / config.scale).reshape(mel.shape)


@dataclasses.dataclass(frozen=True)
class VisemeExperiment:
    """Everything that decides a viseme encoder's training."""

    loop: LoopConfig
    model: VisemeConfig = VisemeConfig()
    optim: OptimConfig = OptimConfig()
    sounds: SoundsConfig = SoundsConfig()
    disturb: Disturbances = Disturbances()
    """What is done to the sound while training."""
    ema: float = 0.998
    """Decay of the average of the parameters that is shipped."""

    def build(self) -> "HearingPhase":
        """The phase that the loop runs."""
        return HearingPhase(self)


class HearingPhase:
    """Supervised hearing; the loop's Phase."""

    def __init__(self, config: VisemeExperiment):
        self.config = config
        self.tx = make_optimizer(config.optim)
        self.sounds = Sounds(config.sounds, config.model)
        mouth = np.concatenate(self.sounds.mouth)
        self._mean, self._std = mouth.mean((0, 1)), mouth.std((0, 1))
        self._step = jax.jit(chex.assert_max_traces(self._update, n=1), donate_argnums=0)
        self._predict = jax.jit(lambda encoder, mel: encoder.mouths(encoder(mel)))

    def init(self, key: jax.Array) -> TrainState:
        """A fresh encoder."""
        weights, draws = jax.random.split(key)
        return TrainState.create(VisemeEncoder(self.config.model, rngs=nnx.Rngs(weights)), self.tx, draws)

    def start(self, state: TrainState) -> TrainState:
        """The same: an encoder starts from nothing."""
        return state

    def _update(self, state: TrainState, batch: dict) -> tuple[TrainState, dict[str, jax.Array]]:
        mel = disturb(batch["mel"].astype(jnp.float32), state.draw(), self.config.disturb)
        mean, std = (jnp.asarray(x)[None, None, None] for x in (self._mean, self._std))
        target = (batch["mouth"] - mean) / std

        def loss_of(encoder: VisemeEncoder):
            error = jnp.square(encoder.mouths(encoder(mel)) - target).mean((0, 1))
            return error.mean(), error

        (loss, error), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.model)
        named = {name: error[:, index].mean() for index, name in enumerate(MOUTH)}
        return state.apply(gradients, self.tx, self.config.ema), {"loss": loss, **named}

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
        """Pieces of the training voices."""
        return grain.MapDataset.source(self.sounds)

    def preview(self, state: TrainState, folder: Path, index: int) -> dict[str, float]:
        """Mean correlation with the true opening over held-out voices, at each offset, while they speak."""
        sounds = Sounds(dataclasses.replace(self.config.sounds, split="heldout", count=24), self.config.model)
        predicted = np.asarray(self._predict(state.ema, np.stack(sounds.mel).astype(np.float32)))
        figures = {}
        for place, offset in enumerate(self.config.model.offsets):
            each = [
                pearson(ours[speaking, place, 0], true[speaking, place, 0])
                for ours, true, speaking in zip(predicted, sounds.mouth, sounds.speaking, strict=True)
                if speaking.any()
            ]
            figures[f"r_opening_{offset:+d}"] = float(np.mean(each))
        return figures

    def weights(self, state: TrainState) -> VisemeEncoder:
        """The averaged encoder."""
        return state.ema

    def describe(self) -> dict[str, Any]:
        """Nothing beside the config."""
        return {}
