"""The VAE's stage: the reference picture into latents, latents into frames on the host."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tm_jax.torch_runtime.graphs import Replayed
from tm_jax.torch_runtime.lanes import Lane, Lent, Pool
from tm_jax.torch_runtime.vae import VAE, State, reference_latents


class Decoding:
    """A stream's state on the VAE's device: its pasts, one latent, and the frames that it becomes."""

    def __init__(self, vae: VAE, latents: Tensor, size: tuple[int, int], helper: Executor):
        self.pasts: State = []
        self._vae, self._helper = vae, helper
        self._latent = torch.empty_like(latents[:1])
        shape = (vae.config.temporal_stride, *size, 3)
        self._frames = torch.empty(shape, dtype=torch.uint8, device=latents.device)
        # One is read by the host while the next is on its way.
        self._host = [torch.empty(shape, dtype=torch.uint8, pin_memory=latents.is_cuda) for _ in range(2)]
        self._turn = 0
        self._later = Replayed(
            lambda: self._frames.copy_(vae.decode(self._latent, self.pasts, first=False)), latents.device
        )

    def on_gpu(self, latent: Tensor, lane: Lane, *, first: bool) -> Callable[[], np.ndarray]:
        """Launch the decoding of one latent [1 h w c]; what is returned waits for its frames."""
        if first:
            frames = self._vae.decode(latent, self.pasts, first=True)
        else:
            self._latent.copy_(latent)
            self._later()
            frames = self._frames
        self._turn ^= 1
        host = self._host[self._turn][: len(frames)]
        host.copy_(frames, non_blocking=True)
        done = lane.mark()

        def arrive() -> np.ndarray:
            done.synchronize()
            return host.numpy().copy()

        return arrive

    def on_cpu(self, latent: Tensor, *, first: bool) -> Callable[[], np.ndarray]:
        """Decode one latent; what takes every frame by itself is a helper's, beside the next latent."""
        cells = self._vae.cells(latent, self.pasts, first=first)
        frames = self._helper.submit(torch.inference_mode()(self._vae.frames), cells)
        return lambda: frames.result().numpy()


class VaeStage:
    """One VAE on its device, for any number of streams."""

    def __init__(self, vae: VAE, size: tuple[int, int]):
        self.vae, self.size, self.device = vae, size, vae.mean.device
        self.lane = Lane(self.device)
        self._helper = ThreadPoolExecutor(1, "tm_jax-frames")
        self._decodings = Pool()

    @torch.inference_mode()
    def encode(self, pixels: Tensor, latent_frames: int, *, still: bool) -> tuple[Tensor, Any]:
        """Latents [f h w c] of the reference picture [y x 3] in [-1, 1], and the event of their making."""
        with self.lane():
            latents = reference_latents(self.vae, pixels.to(self.device), latent_frames, still=still)
            return latents, self.lane.mark()

    def decode(
        self, latents: Tensor, arrived: Any, state: Lent | None, *, first: bool
    ) -> Iterator[tuple[UInt8[np.ndarray, "t y x 3"], Lent]]:
        """Latent after latent; the next one is begun before the frames of one are handed out."""
        if state is None:
            with self.lane():
                make = lambda: Decoding(self.vae, latents, self.size, self._helper)
                state = self._decodings.take(make)
        decoding, begun = state.content, None
        for index, latent in enumerate(latents.split(1)):
            starts = first and index == 0
            with torch.inference_mode(), self.lane():
                if self.lane.stream is None:
                    following = decoding.on_cpu(latent, first=starts)
                else:
                    self.lane.after(arrived)
                    following = decoding.on_gpu(latent, self.lane, first=starts)
            if begun is not None:
                yield begun(), state
            begun = following
        yield begun(), state
