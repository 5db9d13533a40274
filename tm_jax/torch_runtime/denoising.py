"""The student's stage: what a character needs before it moves, and chunk after chunk of latents."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from tm_jax.errors import InputError
from tm_jax.torch_runtime.devices import stream_bytes
from tm_jax.torch_runtime.dit import DiT
from tm_jax.torch_runtime.encoders import PictureEncoder
from tm_jax.torch_runtime.export_format import Dtype, ExportConfig
from tm_jax.torch_runtime.lanes import Lane, Lent, Pool
from tm_jax.torch_runtime.parallel import Alone, Exchange
from tm_jax.torch_runtime.rollout import Reference, Rollout

FaceBox = tuple[int, int, int, int] | None


class NoRoom(InputError, torch.OutOfMemoryError):
    """A device holds as many streams as it can."""


class DitStage:
    """One student on its device, for any number of streams."""

    def __init__(
        self,
        config: ExportConfig,
        student: DiT,
        *,
        picture_encoder: PictureEncoder | None = None,
        text_tokens: Tensor | None = None,
        compiled: bool | None = None,
        exchange: Exchange = Alone(),
    ):
        """Takes the student and what it sees and reads through, on its device.

        Args:
          text_tokens: the prompt's embedding [text text_width]; None is zeros, for a world without prompts.
          compiled: compile the blocks; None does so on a GPU.
          exchange: between the ranks that share a chunk's tokens.
        """
        self.config, self.student = config, student
        self.picture_encoder, self.text_tokens, self.exchange = picture_encoder, text_tokens, exchange
        self.device = student.head_modulation.device
        self.compiled = self.device.type == "cuda" if compiled is None else compiled
        self.lane, self._streams = Lane(self.device, priority=-1), Pool()
        wrap = compile_once if self.compiled else None
        stride = config.vae.spatial_stride
        self.grid = (config.size[0] // stride, config.size[1] // stride)
        with torch.inference_mode(), self.lane():
            self._rollout = Rollout(student, config.rollout, self.grid, wrap=wrap, exchange=exchange)

    @property
    def dtype(self) -> Dtype:
        """Precision of the student's matrices as they are now."""
        if any(block.outer.scale is not None for block in self.student.blocks):
            return "fp8"
        return "f32" if self.student.dtype == torch.float32 else "bf16"

    @torch.inference_mode()
    def reference(self, pixels: Tensor, latents: Tensor, encoded: Any, face_box: FaceBox) -> Reference:
        """What streams need of a picture [y x 3] in [-1, 1] and its latents, once the event has happened."""
        with self.lane():
            self.lane.after(encoded)
            made = self._known(pixels.to(self.device), latents.to(self.device), face_box)
            done = self.lane.mark()
        if done is not None:
            done.synchronize()
        return made

    def _known(self, pixels: Tensor, latents: Tensor, face_box: FaceBox) -> Reference:
        student, model = self.student, self.config.student
        text = self.text_tokens
        if text is None:
            text = torch.zeros(model.text_length, model.text_width)
        text = student.text_tokens(text.to(self.device))
        image = condition = face = None
        if model.has_image:
            mask = torch.zeros((*latents.shape[:-1], 4), device=self.device)
            mask[0] = 1
            condition = torch.cat([mask, latents], -1)
            if self.picture_encoder is None:
                features = picture_tokens(latents[0], model.image_patch)
            else:
                features = self.picture_encoder(pixels)
            tokens = student.image_tokens(features)
            image = [block.image_keys_values(tokens) for block in student.blocks]
        if model.has_audio:
            cells = torch.from_numpy(face_cells(face_box, self.config.size, self.grid)).to(self.device)
            _, high, wide = model.patch
            cells = cells.unflatten(1, (-1, wide)).unflatten(0, (-1, high)).mean((1, 3))
            face = cells.reshape(-1, 1, 1).to(student.dtype)
        texts = [block.text_keys_values(text) for block in student.blocks]
        return Reference(condition, texts, image, face)

    @torch.inference_mode()
    def begin(self, reference: Reference) -> Lent:
        """The state before the first chunk; it belongs to one stream, then to the next.

        Raises:
          InputError: the device has no room for one more.
        """
        try:
            with self.lane():
                state = self._streams.take(lambda: self._rollout.begin(reference))
                state.content.begin(reference)
        except torch.OutOfMemoryError as error:
            needed = stream_bytes(self.config, self.dtype) / 1e9
            raise NoRoom(
                f"{self.device} has no room for one more stream of {needed:.1f} GB: close one first."
            ) from error
        return state

    def launch(self, state: Lent, noises: np.ndarray, windows: np.ndarray, mode: np.ndarray) -> None:
        """Denoise the next chunk, inside of the lane; latents are then in ``state.content.latents``."""
        inputs = [torch.from_numpy(array) for array in (noises[:, 0], windows[0], mode[0])]
        self._rollout.denoise(state.content, *inputs)


def compile_once(function: Callable) -> Callable:
    """A function compiled for all blocks together: their weights are its inputs."""
    return torch.compile(function, fullgraph=True, dynamic=False)


def picture_tokens(latent: Tensor, patch: int) -> Tensor:
    """The reference picture's own latent [h w c] as image tokens [image c·patch²], where there is no CLIP."""
    cells = latent.unflatten(1, (-1, patch)).unflatten(0, (-1, patch)).transpose(1, 2)
    return cells.flatten(2).flatten(0, 1)


def face_cells(box: FaceBox, size: tuple[int, int], grid: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """1 on every latent cell that a face box (y0, x0, y1, x1 in pixels) touches, everywhere without one."""
    if box is None:
        return np.ones(grid, np.float32)

    def touches(low: int, high: int, pixels: int, cells: int) -> np.ndarray:
        edges = np.linspace(0.0, pixels, cells + 1)
        return (edges[1:] > low) & (edges[:-1] < high)

    rows, columns = (touches(box[axis], box[2 + axis], size[axis], grid[axis]) for axis in range(2))
    return (rows[:, None] & columns[None]).astype(np.float32)
