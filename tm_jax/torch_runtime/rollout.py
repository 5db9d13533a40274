"""The causal step in PyTorch: one chunk of latents from its noise, its sound and what the stream remembers.

The twin of ``tm_jax.diffusion.rollout.generate_chunk``.  All that a stream holds is allocated when it begins
and never moves; a chunk writes into it, so that on a GPU a chunk is the replay of a graph.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.torch_runtime.cache import Place, StepCache, place
from tm_jax.torch_runtime.dit import KV, Block, Cross, DiT, write_for_later, write_rotated
from tm_jax.torch_runtime.graphs import Replayed
from tm_jax.torch_runtime.layers import attention, rope_table
from tm_jax.torch_runtime.parallel import Alone, Exchange


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a stream knows of its character: computed once per picture, copied into each of its streams."""

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

    def __init__(self, rollout: "Rollout", reference: Reference):
        student, config = rollout.student, rollout.student.config
        device, steps = student.head_modulation.device, rollout.config.steps
        zeros = lambda *shape, dtype=torch.float32: torch.zeros(shape, dtype=dtype, device=device)
        self.chunk, self.graphs = 0, {}
        self.reference = _like(reference)
        self.noises = zeros(steps, *rollout.shape, config.out_channels)
        self.windows = zeros(rollout.config.chunk, config.audio_slots, config.audio_width)
        self.mode = zeros(rollout.config.chunk, dtype=torch.int64)
        self.own = zeros(2, rollout.tokens, 1, config.head_dim)
        self.later = torch.zeros_like(self.own)
        condition = reference.condition
        self.condition = None if condition is None else zeros(*rollout.shape, condition.shape[-1])
        heads = config.heads // rollout.exchange.ranks
        self.caches = [
            StepCache(config.layers, rollout.tokens, heads, config.head_dim, student.dtype, device)
            for _ in range(steps)
        ]
        self.latents = zeros(*rollout.shape, config.out_channels)

    def begin(self, reference: Reference) -> None:
        """Start afresh with a character; whatever the caches hold is not read before it is written."""
        self.chunk = 0
        for mine, given in zip(_tensors(self.reference), _tensors(reference), strict=True):
            mine.copy_(given)


class Rollout:
    """Denoises chunk after chunk of any number of streams with one student.

    Args:
      grid: rows and columns of a latent frame.
      wrap: what compiles a function, once for all blocks; None runs them as they are.
      exchange: between the ranks that share a chunk's tokens; one rank has them all.
    """

    def __init__(
        self,
        student: DiT,
        config: RolloutConfig,
        grid: tuple[int, int],
        *,
        wrap: Callable[[Callable], Callable] | None = None,
        exchange: Exchange = Alone(),
    ):
        self.student, self.config, self.grid, self.exchange = student, config, grid, exchange
        self.shape = (config.chunk, *grid)
        rows, columns = (size // patch for size, patch in zip(grid, student.config.patch[1:], strict=True))
        self.tokens = config.chunk * rows * columns
        self.modulations = student.modulations(config.sigmas)
        self._rows, self._columns, self._tables = rows, columns, {}
        wrap = wrap or (lambda function: function)
        self._project, self._after = wrap(Block.project), wrap(Block.after)
        self._write, self._rewrite = wrap(write_rotated), wrap(write_for_later)

    def begin(self, reference: Reference) -> Stream:
        """A stream before its first chunk."""
        stream = Stream(self, reference)
        stream.begin(reference)
        return stream

    def denoise(self, stream: Stream, noises: Tensor, windows: Tensor, mode: Tensor) -> None:
        """Denoise the next chunk; its clean latents are then in ``stream.latents``.

        Args:
          noises: [steps g h w c], of which a rank uses all; standard normal.
          windows: audio tokens of each latent frame [g a d].
          mode: 0 listening, 1 speaking [g].
        """
        here = self._put(stream, noises, windows, mode)
        # From chunk 2 on all that differs between chunks is in the stream's buffers, but for the slot.
        if here.slots < 3:
            self._run(stream, here)
        else:
            if here.slot not in stream.graphs:
                steady = dataclasses.replace(here, start=-1)
                stream.graphs[here.slot] = self._replayed(stream, steady)
            stream.graphs[here.slot]()
        stream.chunk += 1

    def _replayed(self, stream: Stream, here: Place) -> Replayed:
        return Replayed(lambda: self._run(stream, here), self.student.head_modulation.device)

    def _put(self, stream: Stream, noises: Tensor, windows: Tensor, mode: Tensor) -> Place:
        """Put a chunk's inputs where its step reads them; where the chunk stands."""
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

    def _run(self, stream: Stream, here: Place) -> None:
        student, clean = self.student, None
        mode = stream.mode if student.config.has_audio else None
        audio_kv = self._audio_kv(stream)
        face = None if stream.reference.face is None else self.exchange.mine(stream.reference.face)
        face = None if face is None else face.repeat(self.config.chunk, 1, 1)
        for step, sigma in enumerate(self.config.sigmas):
            noise = stream.noises[step]
            noisy = noise if clean is None else (1 - sigma) * clean + sigma * noise
            blocks, head = self.modulations[step]
            x = student.embed(noisy, stream.condition, mode)
            x = self.exchange.mine(x.unflatten(0, (self.config.chunk, -1)), 1).flatten(0, 1)
            for layer, modulation in enumerate(blocks):
                x = self._block(stream, here, step, layer, x, modulation, audio_kv[layer], face)
            x = self.exchange.everyone(x.unflatten(0, (self.config.chunk, -1)), 1).flatten(0, 1)
            prediction = student.predict(x, head, self.shape)
            clean = noisy - sigma * student.velocity(prediction, noisy, stream.condition, sigma)
        stream.latents.copy_(clean)

    def _block(self, stream: Stream, here: Place, step: int, layer: int, x, modulation, audio_kv, face):
        block, reference, cache = self.student.blocks[layer], stream.reference, stream.caches[step]
        keys, values = cache.written(layer, here.slot)
        query, key, value = self.exchange.to_heads(*self._project(block, x, modulation))
        query = self._write(query, key, value, stream.own, keys, values)
        read = self.exchange.to_tokens(attention(query, *cache.read(layer, here.slots)))
        if here.later != here.start:
            self._rewrite(key, stream.later, keys)
        image = None if reference.image is None else reference.image[layer]
        return self._after(block, x, read, modulation, Cross(reference.text[layer], image, audio_kv, face))

    def _audio_kv(self, stream: Stream) -> list[KV | None]:
        """Keys and values of the chunk's sound in every layer, once for all steps."""
        if not self.student.config.has_audio:
            return [None] * len(self.student.blocks)
        tokens = self.student.audio_tokens(stream.windows)
        return [block.audio_keys_values(tokens) for block in self.student.blocks]

    def _table(self, start: int) -> Tensor:
        """The rotations of a chunk that begins at a RoPE frame, in the order of its keys."""
        if start not in self._tables:
            config = self.student.config
            frames = list(range(start, start + self.config.chunk))
            table = rope_table(frames, self._rows, self._columns, config.head_dim, config.rope_theta)
            by_frame = table.unflatten(1, (self.config.chunk, -1))
            ordered = self.exchange.gathered_order(by_frame, 2).flatten(1, 2)
            self._tables[start] = ordered.to(self.student.head_modulation.device)
        return self._tables[start]


def _tensors(reference: Reference) -> list[Tensor]:
    """All tensors of a reference, in a fixed order."""
    pairs = [*reference.text, *(reference.image or [])]
    flat = [tensor for pair in pairs for tensor in pair]
    return [tensor for tensor in (reference.condition, reference.face, *flat) if tensor is not None]


def _like(reference: Reference) -> Reference:
    """A reference of the same form, to be copied into."""
    empty = lambda tensor: None if tensor is None else torch.empty_like(tensor)
    pairs = lambda found: None if found is None else [(empty(key), empty(value)) for key, value in found]
    return Reference(
        empty(reference.condition), pairs(reference.text), pairs(reference.image), empty(reference.face)
    )
