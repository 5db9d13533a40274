"""The PyTorch backend of the streaming engine: an export's models in place, on one or two devices.

What the engine asks for is said in ``streaming.backend``.  On a GPU each stage launches on a CUDA stream of
its own; the VAE's waits for the event that follows a chunk's latents, which cross to another device on a
third stream, into one of three places in turn: one is being written, one waits, one is being decoded.  On a
CPU the same calls compute as they come, each in its stage's thread.
"""

import collections
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor

from tm_jax.audio.front_end import AudioFrontEnd
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.torch_runtime.dit import DiT
from tm_jax.torch_runtime.encoders import PictureEncoder
from tm_jax.torch_runtime.export_format import ExportConfig
from tm_jax.torch_runtime.graphs import Replayed
from tm_jax.torch_runtime.rollout import Reference, Rollout, Stream
from tm_jax.torch_runtime.vae import VAE, State, reference_latents

PLACES = 3
"""Chunks of latents that a stream holds on the VAE's device."""


class Lane:
    """What a stage launches on: a CUDA stream of its device, or on a CPU nothing."""

    def __init__(self, device: torch.device, priority: int = 0):
        self.device = device
        self.stream = torch.cuda.Stream(device, priority=priority) if device.type == "cuda" else None
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Launch on it; on a GPU one thread at a time, so that chunks of several streams do not mix."""
        if self.stream is None:
            yield
            return
        with self._lock, torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            yield

    def mark(self) -> torch.cuda.Event | None:
        """An event after all that was launched on it."""
        return None if self.stream is None else self.stream.record_event()

    def after(self, event: torch.cuda.Event | None) -> None:
        """What is launched from now on waits for an event, of whichever lane."""
        if event is not None and self.stream is not None:
            self.stream.wait_event(event)


class Latents:
    """One chunk's latents on the VAE's device, and the events of their making."""

    def __init__(self, tensor: Tensor, denoised: Any, arrived: Any):
        self.tensor, self.denoised, self.arrived = tensor, denoised, arrived


class Denoising:
    """A stream's state on the transformer's device, and its latents' places on the VAE's."""

    def __init__(self, stream: Stream, device: torch.device):
        self.stream = stream
        self.places = [torch.empty_like(stream.latents, device=device) for _ in range(PLACES)]


class Decoding:
    """A stream's state on the VAE's device: its pasts, one latent, and the frames that it becomes."""

    def __init__(self, vae: VAE, latents: Tensor, size: tuple[int, int]):
        self.pasts: State = []
        self.latent = torch.empty_like(latents[:1])
        shape = (vae.config.temporal_stride, *size, 3)
        self.frames = torch.empty(shape, dtype=torch.uint8, device=latents.device)
        # One is read by the host while the next is on its way.
        self.host = [torch.empty(shape, dtype=torch.uint8, pin_memory=latents.is_cuda) for _ in range(2)]
        self._vae = vae
        self._later = Replayed(
            lambda: self.frames.copy_(vae.decode(self.latent, self.pasts, first=False)), latents.device
        )

    def run(self, latent: Tensor, place: int, *, first: bool) -> Tensor:
        """Launch the decoding of one latent [1 h w c]; where its frames will be on the host."""
        if first:
            frames = self._vae.decode(latent, self.pasts, first=True)
        else:
            self.latent.copy_(latent)
            self._later()
            frames = self.frames
        host = self.host[place][: len(frames)]
        host.copy_(frames, non_blocking=True)
        return host


class Pool:
    """States that streams have left, for the next ones: what is allocated and captured stays."""

    def __init__(self):
        self._free: list[Any] = []
        self._lock = threading.Lock()

    def take(self, make: Callable[[], Any]) -> "Lent":
        """A free state, or a new one."""
        with self._lock:
            content = self._free.pop() if self._free else None
        lent = Lent(make() if content is None else content)
        weakref.finalize(lent, self._free.append, lent.content)
        return lent


class Lent:
    """A state that goes back to its pool when nobody holds this any more."""

    def __init__(self, content: Any):
        self.content = content


class TorchBackend:
    """One student and its VAE, serving any number of streams."""

    def __init__(
        self,
        config: ExportConfig,
        student: DiT,
        vae: VAE,
        front_end: AudioFrontEnd,
        *,
        picture_encoder: PictureEncoder | None = None,
        text_tokens: Tensor | None = None,
        compiled: bool | None = None,
    ):
        """Takes the parts, each on its device.

        Args:
          text_tokens: the prompt's embedding [text text_width]; None is zeros, for a world without prompts.
          compiled: compile the blocks; None does so on a GPU.
        """
        self.config, self.student, self.vae, self.front_end = config, student, vae, front_end
        self._picture_encoder, self._text = picture_encoder, text_tokens
        self.dit_device, self.vae_device = student.head_modulation.device, vae.mean.device
        stride = config.vae.spatial_stride
        self.grid = (config.size[0] // stride, config.size[1] // stride)
        self._dit, self._vae = Lane(self.dit_device, priority=-1), Lane(self.vae_device)
        self._copy = Lane(self.vae_device)
        self._streams, self._decodings = Pool(), Pool()
        compiled = self.dit_device.type == "cuda" if compiled is None else compiled
        wrap = (lambda f: torch.compile(f, fullgraph=True, dynamic=False)) if compiled else None
        with torch.inference_mode(), self._dit():
            self._rollout = Rollout(student, config.rollout, self.grid, wrap=wrap)

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
        face_box: tuple[int, int, int, int] | None = None,
    ) -> Reference:
        """What streams need of a picture: computed once, read by any number of them."""
        pixels = torch.from_numpy(picture.astype(np.float32) / 127.5 - 1.0)
        model = self.config.student
        with self._vae():
            latents = reference_latents(
                self.vae, pixels.to(self.vae_device), model.trained_frames, still=model.still_condition
            )
            encoded = self._vae.mark()
        with self._dit():
            self._dit.after(encoded)
            made = self._known(pixels.to(self.dit_device), latents.to(self.dit_device), face_box)
            done = self._dit.mark()
        if done is not None:
            done.synchronize()
        return made

    def _known(self, pixels: Tensor, latents: Tensor, face_box: tuple | None) -> Reference:
        student, model = self.student, self.config.student
        text = self._text
        if text is None:
            text = torch.zeros(model.text_length, model.text_width)
        text = student.text_tokens(text.to(self.dit_device))
        image = condition = face = None
        if model.has_image:
            mask = torch.zeros((*latents.shape[:-1], 4), device=self.dit_device)
            mask[0] = 1
            condition = torch.cat([mask, latents], -1)
            if self._picture_encoder is None:
                features = picture_tokens(latents[0], model.image_patch)
            else:
                features = self._picture_encoder(pixels)
            tokens = student.image_tokens(features)
            image = [block.image_keys_values(tokens) for block in student.blocks]
        if model.has_audio:
            cells = torch.from_numpy(face_cells(face_box, self.size, self.grid)).to(self.dit_device)
            _, high, wide = model.patch
            cells = cells.unflatten(1, (-1, wide)).unflatten(0, (-1, high)).mean((1, 3))
            face = cells.reshape(-1, 1, 1).to(student.dtype)
        texts = [block.text_keys_values(text) for block in student.blocks]
        return Reference(condition, texts, image, face)

    @torch.inference_mode()
    def begin(self, reference: Reference) -> Lent:
        """The student's state before the first chunk; it belongs to one stream, then to the next."""
        with self._dit():
            make = lambda: Denoising(self._rollout.begin(reference), self.vae_device)
            state = self._streams.take(make)
            state.content.stream.begin(reference)
        return state

    @torch.inference_mode()
    def denoise(
        self,
        reference: Reference,
        state: Lent,
        noises: Float32[np.ndarray, "steps 1 g h w c"],
        windows: Float32[np.ndarray, "1 g a d"],
        mode: Int32[np.ndarray, "1 g"],
    ) -> tuple[Latents, Lent]:
        """Start to denoise one chunk: its latents, and the state that the next call takes."""
        stream = state.content.stream
        place = state.content.places[stream.chunk % PLACES]
        inputs = [torch.from_numpy(array) for array in (noises[:, 0], windows[0], mode[0])]
        with self._dit():
            self._rollout.denoise(stream, *inputs)
            if self.dit_device == self.vae_device:
                place.copy_(stream.latents)
            denoised = self._dit.mark()
        arrived = denoised
        if self.dit_device != self.vae_device:
            with self._copy():
                self._copy.after(denoised)
                place.copy_(stream.latents, non_blocking=True)
                arrived = self._copy.mark()
            with self._dit():
                self._dit.after(arrived)  # the next chunk must not overwrite what is still being copied
        return Latents(place, denoised, arrived), state

    def wait(self, latents: Latents) -> None:
        """Return when these latents are computed."""
        if latents.denoised is not None:
            latents.denoised.synchronize()

    def decode(
        self, latents: Latents, state: Lent | None, *, first: bool
    ) -> Iterator[tuple[UInt8[np.ndarray, "t y x 3"], Lent]]:
        """Latent after latent; on a GPU the next one is launched before the frames of one are handed out."""
        if state is None:
            with self._vae():
                state = self._decodings.take(lambda: Decoding(self.vae, latents.tensor, self.size))
        launched: collections.deque = collections.deque()
        ahead = 0 if self._vae.stream is None else 1
        for index, latent in enumerate(latents.tensor.split(1)):
            with torch.inference_mode(), self._vae():
                self._vae.after(latents.arrived)
                host = state.content.run(latent, index % 2, first=first and index == 0)
                launched.append((host, self._vae.mark()))
            while len(launched) > ahead:
                yield _on_host(*launched.popleft()), state
        while launched:
            yield _on_host(*launched.popleft()), state


def _on_host(frames: Tensor, done: torch.cuda.Event | None) -> UInt8[np.ndarray, "t y x 3"]:
    """Frames that have arrived on the host, for the caller to keep."""
    if done is not None:
        done.synchronize()
    return frames.numpy().copy()


def picture_tokens(latent: Tensor, patch: int) -> Tensor:
    """The reference picture's own latent [h w c] as image tokens [image c·patch²], where there is no CLIP."""
    cells = latent.unflatten(1, (-1, patch)).unflatten(0, (-1, patch)).transpose(1, 2)
    return cells.flatten(2).flatten(0, 1)


def face_cells(
    box: tuple[int, int, int, int] | None, size: tuple[int, int], grid: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """1 on every latent cell that a face box (y0, x0, y1, x1 in pixels) touches, everywhere without one."""
    if box is None:
        return np.ones(grid, np.float32)

    def touches(low: float, high: float, pixels: int, cells: int) -> np.ndarray:
        edges = np.linspace(0.0, pixels, cells + 1)
        return (edges[1:] > low) & (edges[:-1] < high)

    rows, columns = (touches(box[axis], box[2 + axis], size[axis], grid[axis]) for axis in range(2))
    return (rows[:, None] & columns[None]).astype(np.float32)
