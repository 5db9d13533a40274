"""The PyTorch backend of the streaming engine: an export's models in place, on one or two devices.

What the engine asks for is said in ``streaming.backend``.  On a GPU every stage has its stream, latents cross
over in order of events, and the host waits only for what it needs; on a CPU the same calls run as they come.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.audio.log_mel import LogMel
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.torch_runtime import export_format as form
from tm_jax.torch_runtime.dit import DiT
from tm_jax.torch_runtime.encoders import (
    PictureEncoder,
    VisemeEncoder,
    speech_front_end,
    viseme_front_end,
)
from tm_jax.torch_runtime.loading import Stored, load_dit, load_vae, load_visemes
from tm_jax.torch_runtime.rollout import Reference, Rollout, Stream
from tm_jax.torch_runtime.vae import VAE, State, reference_latents

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}
"""What the student computes in."""


class TorchBackend:
    """One student and its VAE, serving any number of streams."""

    def __init__(
        self,
        config: form.ExportConfig,
        student: DiT,
        vae: VAE,
        front_end: AudioFrontEnd,
        *,
        picture_encoder: PictureEncoder | None = None,
        text_tokens: Tensor | None = None,
    ):
        """Takes the parts, each on its device.

        Args:
          text_tokens: the prompt's embedding [text text_width]; None is zeros, for a world without prompts.
        """
        self.config, self.student, self.vae, self.front_end = config, student, vae, front_end
        self._picture_encoder, self._text = picture_encoder, text_tokens
        self.dit_device, self.vae_device = student.head_modulation.device, vae.mean.device
        stride = config.vae.spatial_stride
        self.grid = (config.size[0] // stride, config.size[1] // stride)
        with torch.inference_mode():
            self._rollout = Rollout(student, config.rollout, self.grid)

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
        return (*self.grid, self.config.student.out_channels)

    @property
    def has_picture_encoder(self) -> bool:
        """Whether the student sees through a picture encoder, as those born from Wan do."""
        return self._picture_encoder is not None

    @torch.inference_mode()
    def reference(
        self,
        picture: UInt8[np.ndarray, "y x 3"],
        face_box: tuple[float, float, float, float] | None = None,
    ) -> Reference:
        """What streams need of a picture: computed once, read by any number of them."""
        student, model = self.student, self.config.student
        pixels = torch.from_numpy(picture.astype(np.float32) / 127.5 - 1.0)
        latents = reference_latents(
            self.vae, pixels.to(self.vae_device), model.trained_frames, still=model.still_condition
        ).to(self.dit_device)
        mask = torch.zeros((*latents.shape[:-1], 4), device=self.dit_device)
        mask[0] = 1
        text = self._text
        if text is None:
            text = torch.zeros(model.text_length, model.text_width)
        text = student.text_tokens(text.to(self.dit_device))
        image = None
        if model.has_image:
            if self._picture_encoder is None:
                features = picture_tokens(latents[0], model.image_patch)
            else:
                features = self._picture_encoder(pixels.to(self.dit_device))
            tokens = student.image_tokens(features)
            image = [block.image_keys_values(tokens) for block in student.blocks]
        face = None
        if model.has_audio:
            cells = torch.from_numpy(face_cells(face_box, self.size, self.grid)).to(self.dit_device)
            _, high, wide = model.patch
            cells = cells.unflatten(1, (-1, wide)).unflatten(0, (-1, high)).mean((1, 3))
            face = cells.reshape(-1, 1, 1).to(student.dtype)
        return Reference(
            condition=torch.cat([mask, latents], -1) if model.has_image else None,
            text=[block.text_keys_values(text) for block in student.blocks],
            image=image,
            face=face,
        )

    @torch.inference_mode()
    def begin(self, reference: Reference) -> Stream:
        """The student's state before the first chunk; it belongs to one stream."""
        return self._rollout.begin(reference)

    @torch.inference_mode()
    def denoise(
        self,
        reference: Reference,
        state: Stream,
        noises: Float32[np.ndarray, "steps g h w c"],
        windows: Float32[np.ndarray, "g a d"],
        mode: Int32[np.ndarray, "g"],
    ) -> tuple[Tensor, Stream]:
        """One chunk of clean latents [g h w c], and the state that the next chunk starts from."""
        here = self._rollout.place(
            state, torch.from_numpy(noises), torch.from_numpy(windows), torch.from_numpy(mode)
        )
        self._rollout.run(state, here)
        state.chunk += 1
        return state.latents.clone(), state

    @torch.inference_mode()
    def decode(self, latents: Tensor, state: State | None) -> Iterator[UInt8[np.ndarray, "t y x 3"]]:
        """The chunk's frames in pieces."""
        raise NotImplementedError


def picture_tokens(latent: Tensor, patch: int) -> Tensor:
    """The reference picture's own latent [h w c] as image tokens [image c·patch²], where there is no CLIP."""
    cells = latent.unflatten(1, (-1, patch)).unflatten(0, (-1, patch)).transpose(1, 2)
    return cells.flatten(2).flatten(0, 1)


def face_cells(
    box: tuple[float, float, float, float] | None, size: tuple[int, int], grid: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """1 on every latent cell that a face box (y0, x0, y1, x1 in pixels) touches, everywhere without one."""
    if box is None:
        return np.ones(grid, np.float32)

    def touches(low: float, high: float, pixels: int, cells: int) -> np.ndarray:
        edges = np.linspace(0.0, pixels, cells + 1)
        return (edges[1:] > low) & (edges[:-1] < high)

    rows, columns = (touches(box[axis], box[2 + axis], size[axis], grid[axis]) for axis in range(2))
    return (rows[:, None] & columns[None]).astype(np.float32)
