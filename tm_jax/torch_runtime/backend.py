"""The PyTorch backend of the streaming engine: an export's models in place, on one or two devices.

What the engine asks for is said in ``streaming.backend``.  On a GPU each stage launches on a CUDA stream of
its own; the VAE's waits for the event that follows a chunk's latents, which cross to another device on a
third stream, into one of three places in turn: one is being written, one waits, one is being decoded.  On a
CPU the same calls compute as they come, each in its stage's thread.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.torch_runtime.decoding import VaeStage
from tm_jax.torch_runtime.denoising import DitStage, FaceBox
from tm_jax.torch_runtime.export_format import ExportConfig
from tm_jax.torch_runtime.lanes import Lane, Lent
from tm_jax.torch_runtime.rollout import Reference

PLACES = 3
"""Chunks of latents that a stream holds on the VAE's device."""


class Latents:
    """One chunk's latents on the VAE's device, and the events of their making."""

    def __init__(self, tensor: Tensor, denoised: Any, arrived: Any):
        self.tensor, self.denoised, self.arrived = tensor, denoised, arrived

    def copy_seconds(self) -> float:
        """How long they took to cross over, once they have arrived; 0 where both stages share a device."""
        if self.denoised is None or self.arrived is self.denoised:
            return 0.0
        self.arrived.synchronize()
        return self.denoised.elapsed_time(self.arrived) / 1e3


class State:
    """A stream's state on the student's device, and the places of its latents on the VAE's."""

    def __init__(self, stream: Lent, device: torch.device):
        self.stream = stream
        self.places = [torch.empty_like(stream.content.latents, device=device) for _ in range(PLACES)]


class ExportBackend:
    """What every backend of an export says of itself."""

    def __init__(self, config: ExportConfig, vae: VaeStage, front_end: AudioFrontEnd):
        self.config, self.vae, self.front_end = config, vae, front_end

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of picture and video."""
        return self.config.size

    @property
    def rollout(self) -> RolloutConfig:
        """Latent frames and steps of a chunk."""
        return self.config.rollout

    @property
    def audio_left(self) -> int:
        """Tokens of past in a latent frame's window, beside its own eight."""
        return self.config.student.audio_left

    @property
    def audio_lookahead(self) -> int:
        """Tokens of future in a latent frame's window."""
        return self.config.student.audio_lookahead

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of a latent frame."""
        stride = self.config.vae.spatial_stride
        return (self.size[0] // stride, self.size[1] // stride, self.config.student.out_channels)

    @property
    def has_picture_encoder(self) -> bool:
        """Whether the student sees through a picture encoder, as those born from Wan do."""
        return self.config.picture_encoder

    def encoded(self, picture: UInt8[np.ndarray, "y x 3"]) -> tuple[Tensor, Tensor, Any]:
        """The picture in [-1, 1], its latents, and the event of their making."""
        model, pixels = self.config.student, torch.from_numpy(picture.astype(np.float32) / 127.5 - 1.0)
        return pixels, *self.vae.encode(pixels, model.trained_frames, still=model.still_condition)

    def decode(
        self, latents: Latents, state: Lent | None, *, first: bool
    ) -> Iterator[tuple[UInt8[np.ndarray, "t y x 3"], Lent]]:
        """Latent after latent; the next one is begun before the frames of one are handed out."""
        return self.vae.decode(latents.tensor, latents.arrived, state, first=first)


class TorchBackend(ExportBackend):
    """One student and its VAE, serving any number of streams."""

    def __init__(self, config: ExportConfig, dit: DitStage, vae: VaeStage, front_end: AudioFrontEnd):
        super().__init__(config, vae, front_end)
        self.dit, self._copy = dit, Lane(vae.device)

    def with_rollout(self, rollout: RolloutConfig) -> "TorchBackend":
        """The same weights in another number of steps or size of chunk, for measuring."""
        config = dataclasses.replace(self.config, rollout=rollout)
        dit = DitStage(
            config,
            self.dit.student,
            picture_encoder=self.dit.picture_encoder,
            text_tokens=self.dit.text_tokens,
            compiled=self.dit.compiled,
        )
        return TorchBackend(config, dit, self.vae, self.front_end)

    def reference(self, picture: UInt8[np.ndarray, "y x 3"], face_box: FaceBox = None) -> Reference:
        """What streams need of a picture: computed once, read by any number of them."""
        return self.dit.reference(*self.encoded(picture), face_box)

    def begin(self, reference: Reference) -> State:
        """The state before the first chunk."""
        return State(self.dit.begin(reference), self.vae.device)

    @torch.inference_mode()
    def denoise(
        self,
        reference: Reference,
        state: State,
        noises: Float32[np.ndarray, "steps 1 g h w c"],
        windows: Float32[np.ndarray, "1 g a d"],
        mode: Int32[np.ndarray, "1 g"],
    ) -> tuple[Latents, State]:
        """Start to denoise one chunk: its latents, and the state that the next call takes."""
        stream, lane = state.stream.content, self.dit.lane
        place = state.places[stream.chunk % PLACES]
        with lane():
            self.dit.launch(state.stream, noises, windows, mode)
            if self.dit.device == self.vae.device:
                place.copy_(stream.latents)
            denoised = lane.mark()
        arrived = denoised
        if self.dit.device != self.vae.device:
            with self._copy():
                self._copy.after(denoised)
                place.copy_(stream.latents, non_blocking=True)
                arrived = self._copy.mark()
            with lane():
                lane.after(arrived)  # the next chunk must not overwrite what is still being copied
        return Latents(place, denoised, arrived), state

    def wait(self, latents: Latents) -> None:
        """Return when these latents are computed."""
        if latents.denoised is not None:
            latents.denoised.synchronize()
