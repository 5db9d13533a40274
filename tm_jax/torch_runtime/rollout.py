"""The causal step in PyTorch: one chunk of latents from its noise, its sound and what the stream remembers.

The twin of ``tm_jax.diffusion.rollout.generate_chunk``.  All that a stream holds is allocated when it begins;
a chunk writes into it, so that a CUDA graph of a chunk may be replayed for ever (``graphs``).
"""

import dataclasses

import torch
from torch import Tensor

from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.torch_runtime.cache import Place, StepCache, place
from tm_jax.torch_runtime.dit import KV, Cross, DiT, write_for_later, write_rotated
from tm_jax.torch_runtime.layers import attention, rope_table


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a stream knows of its character: computed once per picture, shared by its streams."""

    condition: Tensor | None
    """[trained_frames h w 4+c], read by RoPE frame; None for a text-to-video student."""
    text: list[KV]
    """Keys and values of the prompt in every layer, [m n k]."""
    image: list[KV] | None
    """The same of the picture."""
    face: Tensor | None
    """[s 1 1] on the tokens of one latent frame; None for a student that doesn't hear."""


class Stream:
    """What one stream holds on the transformer's device: inputs, caches, result; all at fixed addresses."""

    def __init__(self, student: DiT, rollout: RolloutConfig, reference: Reference, grid: tuple[int, int]):
        config, device = student.config, student.head_modulation.device
        frames, heads, head_dim = rollout.chunk, config.heads, config.head_dim
        rows, columns = (size // patch for size, patch in zip(grid, config.patch[1:], strict=True))
        tokens = frames * rows * columns
        zeros = lambda *shape, dtype=torch.float32: torch.zeros(shape, dtype=dtype, device=device)
        self.reference, self.chunk = reference, 0
        self.shape = (frames, *grid)
        self.noises = zeros(rollout.steps, *self.shape, config.out_channels)
        self.windows = zeros(frames, config.audio_slots, config.audio_width)
        self.mode = zeros(frames, dtype=torch.int64)
        self.own, self.later = zeros(2, tokens, 1, head_dim // 2), zeros(2, tokens, 1, head_dim // 2)
        condition = reference.condition
        self.condition = None if condition is None else zeros(*self.shape, condition.shape[-1])
        self.face = None if reference.face is None else reference.face.repeat(frames, 1, 1)
        self.caches = [
            StepCache(config.layers, tokens, heads, head_dim, student.dtype, device)
            for _ in range(rollout.steps)
        ]
        self.latents = zeros(*self.shape, config.out_channels)


class Rollout:
    """Denoises chunk after chunk of any number of streams with one student."""

    def __init__(self, student: DiT, config: RolloutConfig, grid: tuple[int, int]):
        self.student, self.config, self.grid = student, config, grid
        self.modulations = student.modulations(config.sigmas)
        self._tables: dict[int, Tensor] = {}

    def begin(self, reference: Reference) -> Stream:
        """A stream before its first chunk."""
        return Stream(self.student, self.config, reference, self.grid)

    def place(self, stream: Stream, noises: Tensor, windows: Tensor, mode: Tensor) -> Place:
        """Put a chunk's inputs where its step reads them; returns where the chunk stands."""
        frames, trained = self.config.chunk, self.student.config.trained_frames
        here = place(stream.chunk, frames, trained)
        stream.noises.copy_(noises, non_blocking=True)
        stream.windows.copy_(windows, non_blocking=True)
        stream.mode.copy_(mode, non_blocking=True)
        stream.own.copy_(self._table(here.start))
        stream.later.copy_(self._table(here.later))
        if stream.condition is not None:
            stream.condition.copy_(stream.reference.condition[here.start : here.start + frames])
        return here

    def run(self, stream: Stream, here: Place) -> None:
        """Denoise the chunk whose inputs are in place; its clean latents are then in ``stream.latents``."""
        student, clean = self.student, None
        heard = self._hear(stream)
        for step, sigma in enumerate(self.config.sigmas):
            noise = stream.noises[step]
            noisy = noise if clean is None else (1 - sigma) * clean + sigma * noise
            blocks, head = self.modulations[step]
            x = student.embed(noisy, stream.condition, stream.mode if student.config.has_audio else None)
            for layer in range(len(blocks)):
                x = self._block(stream, here, stream.caches[step], layer, x, blocks[layer], heard[layer])
            prediction = student.predict(x, head, stream.shape)
            clean = noisy - sigma * student.velocity(prediction, noisy, stream.condition, sigma)
        stream.latents.copy_(clean)

    def _block(self, stream: Stream, here: Place, cache: StepCache, layer: int, x, modulation, heard):
        block, reference = self.student.blocks[layer], stream.reference
        keys, values = cache.written(layer, here.slot)
        query, key, value = block.project(x, modulation)
        query = write_rotated(query, key, value, stream.own, keys, values)
        read = attention(query, *cache.read(layer, here.slots))
        if here.later != here.start:
            write_for_later(key, stream.later, keys)
        image = None if reference.image is None else reference.image[layer]
        return block.after(x, read, modulation, Cross(reference.text[layer], image, heard, stream.face))

    def _hear(self, stream: Stream) -> list[KV | None]:
        """Keys and values of the chunk's sound in every layer, once for all steps."""
        if not self.student.config.has_audio:
            return [None] * len(self.student.blocks)
        tokens = self.student.audio_tokens(stream.windows)
        return [block.audio_keys_values(tokens) for block in self.student.blocks]

    def _table(self, start: int) -> Tensor:
        """The rotations of a chunk that begins at a RoPE frame."""
        if start not in self._tables:
            config = self.student.config
            rows, columns = (size // patch for size, patch in zip(self.grid, config.patch[1:], strict=True))
            frames = list(range(start, start + self.config.chunk))
            table = rope_table(frames, rows, columns, config.head_dim, config.rope_theta)
            self._tables[start] = table.to(self.student.head_modulation.device)
        return self._tables[start]
