"""Phase 1: the VAE learns to reconstruct short windows of video.

Loss = squared error, weighted where the mouth is, + the same on frame-to-frame differences (what the
eye reads as flicker) and on differences between neighbouring pixels (what it reads as sharpness), + the
mismatch of how strong such differences are round each place, + a small KL term that keeps the latents
bounded.

Whatever of a detail can't be known, a squared error blurs away.  The mismatch of strengths asks for as much
detail and movement as there was, wherever exactly: where a share r² of a detail's energy is known, raising it
from r² to 1 costs only (1 - r)² of it in squared error.
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

from tm_jax.data.puppet_windows import PuppetWindows, WindowConfig
from tm_jax.media.pixels import to_pixels, to_signed
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.models.vae_init import linear_start
from tm_jax.pretrained.weights import load_model, read_config
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig, make_optimizer
from tm_jax.training.previews import write_sheet
from tm_jax.training.state import TrainState
from tm_jax.types import Video


@dataclasses.dataclass(frozen=True)
class AutoencodingLoss:
    """Weights of the terms of the VAE's loss."""

    mouth: float = 3.0
    """Weight of pixels inside the mouth's box; all others weigh 1."""
    mouth_box: tuple[float, float, float, float] = (0.52, 0.32, 0.8, 0.68)
    """Where mouths are: top, left, bottom, right as shares of the picture."""
    motion: float = 2.0
    """Weight of the error of frame-to-frame differences."""
    edges: float = 1.0
    """Weight of the error of differences between neighbouring pixels."""
    strength: float = 0.0
    """Weight of the error of the local root mean squares of differences between neighbouring pixels."""
    motion_strength: float = 0.0
    """The same of frame-to-frame differences, which are larger where a new latent begins."""
    strength_patch: int = 8
    """Side in pixels of the squares within which they are taken."""
    kl: float = 1e-6
    """Weight of the KL divergence to a unit normal, per latent number."""


def pixel_weight(terms: AutoencodingLoss, height: int, width: int) -> Float[Array, "1 1 y x 1"]:
    """The weight of every pixel."""
    top, left, bottom, right = terms.mouth_box
    rows, columns = (jnp.arange(height) + 0.5) / height, (jnp.arange(width) + 0.5) / width
    inside = ((rows > top) & (rows < bottom))[:, None] & ((columns > left) & (columns < right))[None, :]
    return jnp.where(inside, terms.mouth, 1.0)[None, None, :, :, None]


def strength_errors(ours: Video, true: Video, patch: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean squared mismatch of the local root mean square of differences: in time, and down and to the right.

    Args:
        patch: side of the squares over which a difference's square is averaged; it divides the picture's.
    """

    def strength(video: Video, axis: int) -> Float[Array, "b t rows columns"]:
        # The last frame, row or column has no next one: its difference is 0 in both videos.
        last = jax.lax.slice_in_dim(video, -1, None, axis=axis)
        square = jnp.square(jnp.diff(video, axis=axis, append=last)).mean(-1)
        batch, time, height, width = square.shape
        squares = square.reshape(batch, time, height // patch, patch, width // patch, patch).mean((3, 5))
        # Below a 256th of the range a difference is rounding; the root's slope must not explode there.
        return jnp.sqrt(squares + (2 / 256) ** 2)

    time, down, right = (
        jnp.mean(jnp.square(strength(ours, axis) - strength(true, axis))) for axis in (1, 2, 3)
    )
    return time, down + right


def reconstruction_loss(
    decoded: Video, video: Video, weight: Float[Array, "1 1 y x 1"], terms: AutoencodingLoss
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """How far what was decoded is from the true video, without the latents' term, and the figures to log.

    Args:
        weight: weight of every pixel.
    """
    error = decoded - video
    pixels = jnp.mean(weight * jnp.square(error))
    motion = jnp.mean(weight * jnp.square(error[:, 1:] - error[:, :-1]))
    edges = jnp.mean(jnp.square(jnp.diff(error, axis=2))) + jnp.mean(jnp.square(jnp.diff(error, axis=3)))
    loss = pixels + terms.motion * motion + terms.edges * edges
    psnr = -10 * jnp.log10(jnp.mean(jnp.square(error)) / 4)
    parts = {"psnr": psnr, "motion": motion, "edges": edges}
    if terms.strength or terms.motion_strength:
        movement, detail = strength_errors(decoded, video, terms.strength_patch)
        loss += terms.strength * detail + terms.motion_strength * movement
        parts |= {"strength": detail, "motion_strength": movement}
    return loss, parts


def autoencoding_loss(
    vae: VAE,
    video: Video,
    weight: Float[Array, "1 1 y x 1"],
    key: PRNGKeyArray,
    terms: AutoencodingLoss,
    *,
    freeze_encoder: bool = False,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one batch of windows and the figures to log.

    Args:
        weight: weight of every pixel.
        key: draws the latents from their posterior.
        freeze_encoder: whether the gradient stops at the latents.
    """
    mean, log_variance = vae.encode_moments(video)
    if freeze_encoder:
        mean, log_variance = jax.lax.stop_gradient((mean, log_variance))
    drawn = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
    loss, parts = reconstruction_loss(vae.decode(vae.normalise(drawn)), video, weight, terms)
    kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance)
    loss += terms.kl * kl
    return loss, {"loss": loss, "kl": kl} | parts


def latent_statistics(
    vae: VAE, windows: Video, *, evenness: float = 1.0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and scale of every latent channel over these windows.

    Args:
        evenness: 1 gives every channel unit variance, 0 leaves their ratios as they are (mean scale 1).
    """
    means = jax.jit(lambda vae, video: vae.encode_moments(video)[0])
    flat = np.concatenate(
        [np.asarray(means(vae, video)).reshape(-1, vae.config.z_dim) for video in windows[:, None]]
    )
    std = flat.std(0)
    scale = std**evenness * std.mean() ** (1 - evenness)
    return tuple(flat.mean(0).tolist()), tuple(scale.tolist())


@dataclasses.dataclass(frozen=True)
class VaeExperiment:
    """Everything that decides a VAE's training."""

    loop: LoopConfig
    model: VAEConfig
    optim: OptimConfig = OptimConfig()
    loss: AutoencodingLoss = AutoencodingLoss()
    windows: WindowConfig = WindowConfig()
    ema: float = 0.999
    """Decay of the average of the parameters that is shipped."""
    freeze_encoder: bool = False
    """Whether only the decoding half learns: latents keep their meaning, so that the diffusion models
    trained on them stay valid."""
    linear_start: int = 100
    """Windows that a linear start is fitted to; 0 starts at random."""
    init_from: Path | None = None
    """Weights or a run to start from; None starts afresh.  A missing refiner begins as the identity."""
    evenness: float = 1.0
    """How far the latent channels' sizes are made equal for the diffusion models: 1 gives all of them unit
    variance; less lets channels that matter more to the picture stand out of the noise earlier."""
    measured_on: int = 32
    """Windows over which the latents' mean and standard deviation are measured."""

    def __post_init__(self):
        if self.freeze_encoder and self.init_from is None:
            raise ValueError("freeze_encoder needs init_from: an encoder that has learnt something")

    def build(self) -> "AutoencodingPhase":
        """The phase that the loop runs."""
        return AutoencodingPhase(self)


class AutoencodingPhase:
    """Reconstruction; the loop's Phase."""

    def __init__(self, config: VaeExperiment):
        """Reads the header of ``init_from``.

        Raises:
            InputError: it is not a VAE's weights, or one of other sizes.
        """
        self.config = config
        self.model = config.model
        if config.init_from is not None:
            before = read_config(config.init_from, VAEConfig)
            self.model = dataclasses.replace(
                config.model, latents_mean=before.latents_mean, latents_std=before.latents_std
            )
        self.tx = make_optimizer(config.optim)
        self._step = jax.jit(chex.assert_max_traces(self._update, n=1), donate_argnums=0)
        self._reconstruct = jax.jit(lambda vae, video: vae.decode(vae.encode(video)))

    def init(self, key: jax.Array) -> TrainState:
        """A fresh VAE."""
        weights, draws = jax.random.split(key)
        return TrainState.create(VAE(self.model, rngs=nnx.Rngs(weights)), self.tx, draws)

    def start(self, state: TrainState) -> TrainState:
        """The state with the weights to go on from, or with the best linear autoencoder."""
        config = self.config
        if config.init_from is not None:
            vae = self._weights_before(state.model)
        elif config.linear_start:
            vae = linear_start(state.model, self._windows("train", config.linear_start))
        else:
            return state
        vae = jax.device_put(vae, jax.tree.map(lambda leaf: leaf.sharding, state.model))
        return state.replace(model=vae, ema=jax.tree.map(jnp.copy, vae))

    def _weights_before(self, fresh: VAE) -> VAE:
        """The VAE of ``init_from``; a refiner that it lacks is the fresh one's, at first the identity."""
        path = self.config.init_from
        before = read_config(path, VAEConfig)
        unrefined = dataclasses.replace(
            self.model, refine_blocks=0, refine_dim=before.refine_dim, refine_patch=before.refine_patch
        )
        same = self.model if before.refine_blocks else unrefined
        vae = load_model(path, VAE, VAEConfig, expect=same)
        if vae.refiner is None and fresh.refiner is not None:
            vae.refiner = nnx.data(fresh.refiner)
        vae.config = self.model
        return vae

    def _update(self, state: TrainState, batch: dict) -> tuple[TrainState, dict[str, jax.Array]]:
        video = batch["frames"].astype(jnp.float32) / 127.5 - 1.0
        video = video.reshape(-1, *video.shape[2:])
        whole = not self.config.windows.crop
        weight = pixel_weight(self.config.loss, *video.shape[2:4]) if whole else jnp.ones((1, 1, 1, 1, 1))
        gradients, metrics = jax.grad(autoencoding_loss, has_aux=True)(
            state.model,
            video,
            weight,
            state.draw(),
            self.config.loss,
            freeze_encoder=self.config.freeze_encoder,
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
        """Random windows of the puppets' videos."""
        return grain.MapDataset.source(PuppetWindows(self.config.windows))

    def _windows(self, split: str, count: int) -> np.ndarray:
        source = PuppetWindows(dataclasses.replace(self.config.windows, split=split, crop=0))
        return np.concatenate([to_signed(source[index]["frames"]) for index in range(count)])

    def preview(self, state: TrainState, folder: Path, index: int) -> dict[str, float]:
        """Held-out windows beside their reconstructions."""
        rows, errors = [], []
        for video in self._windows("heldout", 6)[:, None]:
            ours = np.asarray(self._reconstruct(state.ema, video))
            errors.append(np.square(ours - video).mean() / 4)
            rows += [to_pixels(video[0]), to_pixels(ours[0])]
        write_sheet(folder / f"{index:06d}.png", rows, columns=8)
        return {"heldout_psnr": float(-10 * np.log10(np.mean(errors)))}

    def weights(self, state: TrainState) -> VAE:
        """The averaged VAE, with the statistics of its latents in its config."""
        if self.config.freeze_encoder:
            return state.ema
        windows = self._windows("heldout", self.config.measured_on)
        mean, std = latent_statistics(state.ema, windows, evenness=self.config.evenness)
        vae = jax.tree.map(lambda x: x, state.ema)
        vae.config = dataclasses.replace(vae.config, latents_mean=mean, latents_std=std)
        return vae

    def describe(self) -> dict[str, Any]:
        """Nothing beside the config."""
        return {}
