"""Phase 4: the VAE's decoding half learns to draw what the student makes, and not only what was encoded.

A student's latents are not the encoder's: they are smoother where it is not sure, speckled, and jump where a
chunk begins.  So a true window is encoded, noised to the student's last noise level, and denoised by the
student as in streaming; the decoder learns to draw the true frames from that.  The true latents, which it
must still draw, take the other part of the windows.  The encoder stays as it was, so teacher, student and
cached latents stay valid.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tm_jax.data.encoded_videos import VideoEncoder
from tm_jax.data.latent_clips import clip_config
from tm_jax.data.puppets.variety import PLAIN
from tm_jax.data.spoken_windows import SpokenWindows, SpokenWindowsConfig
from tm_jax.diffusion.flow import add_noise, clean_from_velocity
from tm_jax.diffusion.rollout import clip_velocity
from tm_jax.errors import InputError
from tm_jax.media.pixels import to_pixels, to_signed
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.front_ends import load_front_end
from tm_jax.pretrained.weights import load_model, read_config
from tm_jax.streaming.jax_engine import read_rollout
from tm_jax.training.abstract import compiled_once
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig, make_optimizer
from tm_jax.training.previews import write_sheet
from tm_jax.training.state import TrainState
from tm_jax.training.vae_phase import AutoencodingLoss, pixel_weight, reconstruction_loss
from tm_jax.types import Conditioning, Latents


@dataclasses.dataclass(frozen=True)
class DecoderExperiment:
    """Everything that decides how a decoder learns from a student."""

    loop: LoopConfig
    vae: Path
    """Weights of the VAE to go on from."""
    student: Path
    """Weights of the student, whose file says how it streams."""
    visemes: Path | None = None
    """Weights of the viseme encoder through which the student hears; None is log-mel."""
    optim: OptimConfig = OptimConfig()
    loss: AutoencodingLoss = AutoencodingLoss()
    windows: SpokenWindowsConfig = SpokenWindowsConfig()
    chunks: int = 3
    """Chunks of a window: the student reads the first one and the one before."""
    estimated: float = 0.75
    """Share of the windows whose latents the student makes; the others are the true ones."""
    ema: float = 0.99
    """Decay of the average of the parameters that is shipped."""
    blend: float = 0.5
    """Share of the decoder as it has become in what is shipped; the rest is the one before.  Between the two
    lie decoders that keep most of what each is better at."""

    def __post_init__(self):
        if not 0 <= self.estimated <= 1:
            raise ValueError(f"estimated {self.estimated}: a share lies in 0 … 1")
        if not 0 < self.blend <= 1:
            raise ValueError(f"blend {self.blend}: a share lies above 0 and up to 1")
        if self.chunks < 1:
            raise ValueError(f"chunks {self.chunks}: a window has at least 1")

    def build(self) -> "DecoderPhase":
        """The phase that the loop runs."""
        return DecoderPhase(self)


class DecoderPhase:
    """Reconstruction from a student's latents; the loop's Phase."""

    def __init__(self, config: DecoderExperiment):
        """Reads the student and the headers of the VAE.

        Raises:
            InputError: one of them is missing, or they do not belong together.
        """
        self.config = config
        self.model = read_config(config.vae, VAEConfig)
        self.rollout = read_rollout(config.student)
        self.student = load_model(config.student, DiT, DiTConfig)
        if self.student.config.out_channels != self.model.z_dim:
            raise InputError(
                f"{config.student} makes latents of {self.student.config.out_channels} channels and "
                f"{config.vae} reads {self.model.z_dim}: give two that were trained together."
            )
        self.front_end = load_front_end(config.visemes)
        if self.front_end.token_width != self.student.config.audio_width:
            raise InputError(
                f"{config.student} hears {self.student.config.audio_width} numbers a token and "
                f"{config.visemes or 'log-mel'} gives {self.front_end.token_width}: say by --visemes which "
                "viseme encoder it was trained with."
            )
        self.tx = make_optimizer(config.optim)
        self._step = compiled_once("decoder", self._update, donate_argnums=0)
        self._estimated = jax.jit(self._estimate)
        self._decode = jax.jit(lambda vae, latents: vae.decode(latents))

    def init(self, key: jax.Array) -> TrainState:
        """A VAE of zeros, in whose place ``start`` puts the values."""
        vae = jax.tree.map(jnp.zeros_like, VAE(self.model, rngs=nnx.Rngs(0)))
        return TrainState.create(vae, self.tx, key)

    def start(self, state: TrainState) -> TrainState:
        """The state with the VAE's weights."""
        # A copy: the state is donated, and what was before stays.
        vae = jax.tree.map(jnp.copy, self._before)
        vae = jax.device_put(vae, jax.tree.map(lambda leaf: leaf.sharding, state.model))
        return state.begin_with(vae)

    @functools.cached_property
    def _before(self) -> VAE:
        return load_model(self.config.vae, VAE, VAEConfig)

    def _estimate(self, student: DiT, latents: Latents, conditioning: dict, key: jax.Array) -> Latents:
        """What the student's last step makes of the noised true latents, chunk by chunk."""
        level = jnp.full(latents.shape[:1], self.rollout.sigmas[-1], jnp.float32)
        noisy = add_noise(latents, jax.random.normal(key, latents.shape, latents.dtype), level)
        velocity = clip_velocity(student, self.rollout, noisy, level, Conditioning(**conditioning), latents)
        return clean_from_velocity(noisy, velocity, level)

    def _update(
        self, state: TrainState, frozen: tuple[DiT, VAE], batch: dict
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        student, before = frozen
        noise_key, choice_key = jax.random.split(state.draw())
        video = batch["frames"].astype(jnp.float32) / 127.5 - 1.0
        true = batch["latents"]
        made = self._estimate(student, true, batch["conditioning"], noise_key)
        chosen = jax.random.uniform(choice_key, (len(true), 1, 1, 1, 1)) < self.config.estimated
        latents = jax.lax.stop_gradient(jnp.where(chosen, made, true))
        weight = pixel_weight(self.config.loss, *video.shape[2:4])

        def loss_of(vae: VAE) -> tuple[jax.Array, dict]:
            loss, parts = reconstruction_loss(vae.decode(latents), video, weight, self.config.loss)
            return loss, {"loss": loss} | parts

        gradients, metrics = jax.grad(loss_of, has_aux=True)(state.model)
        blend = self.config.blend
        blended = lambda vae: jax.tree.map(lambda old, new: (1 - blend) * old + blend * new, before, vae)
        return state.apply(gradients, self.tx, self.config.ema, averaged=blended), metrics

    def step(self, state: TrainState, batch: dict, index: int) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update."""
        return self._step(state, (self.student, self._before), batch)

    def work(self, index: int) -> tuple[float, float]:
        """Not counted."""
        return 0.0, 0.0

    def _windows(self, windows: SpokenWindowsConfig) -> SpokenWindows:
        student = self.student.config
        clip = clip_config(student, self.rollout.chunk, self.config.chunks)
        # The encoder is causal: a reference of the window's length begins as a longer one would.
        encoder = VideoEncoder(self._before, self.front_end, clip.frames, still=student.still_condition)
        return SpokenWindows(windows, encoder, clip)

    def made_of(self) -> dict[str, str]:
        """Nothing: a checkpoint goes on by itself."""
        return {}

    def dataset(self) -> grain.MapDataset:
        """Random windows of the puppets' videos."""
        return grain.MapDataset.source(self._windows(self.config.windows))

    def preview(self, state: TrainState, folder: Path, index: int) -> dict[str, float]:
        """Held-out windows, drawn from true latents and from the student's; PSNR of both in dB."""
        plain = dataclasses.replace(self.config.windows, split="heldout", variety=PLAIN)
        heldout, rows = self._windows(plain), []
        errors: dict[str, list[float]] = {"heldout_psnr": [], "heldout_psnr_student": []}
        for number in range(3):
            window = heldout[number]
            batched = jax.tree.map(lambda leaf: leaf[None], (window["latents"], window["conditioning"]))
            made = self._estimated(self.student, *batched, jax.random.key(number))
            rows.append(window["frames"])
            for name, latents in zip(errors, (batched[0], made), strict=True):
                drawn = np.asarray(self._decode(state.ema, latents))[0]
                errors[name].append(np.square(drawn - to_signed(window["frames"])).mean() / 4)
                rows.append(to_pixels(drawn))
        write_sheet(folder / f"{index:06d}.png", rows, columns=8)
        return {name: float(-10 * np.log10(np.mean(values))) for name, values in errors.items()}

    def weights(self, state: TrainState) -> VAE:
        """The averaged VAE, which is blended with the one before."""
        return state.ema

    def describe(self) -> dict[str, Any]:
        """The student whose latents it draws."""
        return {"student": str(self.config.student)}
