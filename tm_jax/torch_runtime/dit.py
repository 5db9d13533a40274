"""The student in PyTorch: Wan2.1's transformer with audio, one chunk of one stream at a time.

The plain twin of ``tm_jax.models.dit`` in its streaming form, and only that: no teacher, no mask, no
gradient.  What stays the same is computed once and handed in: the modulation of every noise level when the
weights are there, keys and values of text and picture with the reference, those of the sound with the
chunk.  A block is two functions round its self-attention, so that each can be compiled once for all blocks:

    before   norm, modulation, q k v, rotation; writes K and V to the chunk's slot
    attend   over the slots (``cache``)
    after    projection, cross-attention to text, picture and sound, feed-forward
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tm_jax.models.dit_config import LEAST_SIGMA, DiTConfig
from tm_jax.torch_runtime.layers import (
    MLP,
    Linear,
    Scale,
    attention,
    gelu_tanh,
    layer_norm,
    rms_norm,
    rotate,
)

KV = tuple[Tensor, Tensor]


class Cross(NamedTuple):
    """What a block's cross-attention reads; keys and values are [m n k]."""

    text: KV
    image: KV | None
    audio_kv: KV | None
    """Of the chunk's sound, [g a n k]: each latent frame's own window."""
    face: Tensor | None
    """Where sound may move the picture, [l 1 1]."""


def parameter(*shape: int) -> nn.Parameter:
    """An uninitialised float32 parameter."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


class Block(nn.Module):
    """One layer.  Queries, keys and values come from one matrix, as do both sides of every other source."""

    def __init__(self, config: DiTConfig, dtype: torch.dtype):
        super().__init__()
        width, linear = config.width, lambda i, o, **more: Linear(i, o, dtype=dtype, **more)
        self.modulation = parameter(6, width)
        self.qkv, self.out = linear(width, 3 * width), linear(width, width)
        self.query_norm, self.key_norm = Scale(width, bias=False), Scale(width, bias=False)
        self.cross_norm = Scale(width, bias=True)
        self.cross_query, self.cross_out = linear(width, width), linear(width, width)
        self.cross_query_norm = Scale(width, bias=False)
        self.text, self.text_key_norm = linear(width, 2 * width), Scale(width, bias=False)
        if config.has_image:
            self.image, self.image_key_norm = linear(width, 2 * width), Scale(width, bias=False)
        if config.has_audio:
            self.audio = linear(config.audio_dim, 2 * width, bias=False)
        self.inner, self.outer = linear(width, config.ffn), linear(config.ffn, width)
        self.heads, self.eps = config.heads, config.eps

    def split(self, x: Tensor) -> Tensor:
        """[… d] → [… n k]."""
        return x.unflatten(-1, (self.heads, -1))

    def project(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (neither rotated yet) and values of the chunk's tokens, [l n k] each."""
        inputs = layer_norm(x, self.eps, modulation[1], modulation[0]).to(x.dtype)
        query, key, value = self.qkv(inputs).chunk(3, -1)
        query = rms_norm(query, self.query_norm.weight, self.eps).to(x.dtype)
        key = rms_norm(key, self.key_norm.weight, self.eps).to(x.dtype)
        return self.split(query), self.split(key), self.split(value)

    def after(self, x: Tensor, read: Tensor, modulation: Tensor, cross: Cross) -> Tensor:
        """From what self-attention read [l n k] to the block's output [l d]."""
        x = (x.float() + self.out(read.flatten(-2)).float() * modulation[2]).to(x.dtype)
        inputs = layer_norm(x, self.eps, self.cross_norm.weight, self.cross_norm.bias).to(x.dtype)
        x = x + self.cross_out(self._cross(inputs, cross).flatten(-2))
        inputs = layer_norm(x, self.eps, modulation[4], modulation[3]).to(x.dtype)
        update = self.outer(self.inner.gelu(inputs))
        return (x.float() + update.float() * modulation[5]).to(x.dtype)

    def _cross(self, x: Tensor, cross: Cross) -> Tensor:
        query = rms_norm(self.cross_query(x), self.cross_query_norm.weight, self.eps).to(x.dtype)
        query = self.split(query)
        read = attention(query, *cross.text)
        if cross.image is not None:
            read = read + attention(query, *cross.image)
        if cross.audio_kv is not None:
            by_frame = query.unflatten(0, (cross.audio_kv[0].shape[0], -1))
            read = read + attention(by_frame, *cross.audio_kv).flatten(0, 1) * cross.face
        return read

    def text_keys_values(self, text: Tensor) -> KV:
        """Keys and values of embedded text [m d]."""
        key, value = self.text(text).chunk(2, -1)
        key = rms_norm(key, self.text_key_norm.weight, self.eps).to(text.dtype)
        return self.split(key).contiguous(), self.split(value).contiguous()

    def image_keys_values(self, image: Tensor) -> KV:
        """Keys and values of the embedded picture [m d]."""
        key, value = self.image(image).chunk(2, -1)
        key = rms_norm(key, self.image_key_norm.weight, self.eps).to(image.dtype)
        return self.split(key).contiguous(), self.split(value).contiguous()

    def audio_keys_values(self, tokens: Tensor) -> KV:
        """Keys and values of embedded sound [g a audio_dim]; neither is normed."""
        key, value = self.audio(tokens).chunk(2, -1)
        return self.split(key), self.split(value)


def write_rotated(query: Tensor, key: Tensor, value: Tensor, table: Tensor, keys: Tensor, values: Tensor):
    """The query at its position; key and value go to the chunk's slot, the key at its position too."""
    keys.copy_(rotate(key, table))
    values.copy_(value)
    return rotate(query, table).to(query.dtype)


def write_for_later(key: Tensor, table: Tensor, keys: Tensor) -> None:
    """The key goes to the chunk's slot again, at the position where the next chunk will read it."""
    keys.copy_(rotate(key, table))


class DiT(nn.Module):
    """The transformer's weights and its parts; ``rollout`` puts them in order."""

    def __init__(self, config: DiTConfig, dtype: torch.dtype):
        super().__init__()
        width, cells = config.width, math.prod(config.patch)
        exact, mixed = {"dtype": torch.float32}, {"dtype": dtype}
        self.patch_embedding = Linear(cells * config.in_channels, width, **mixed)
        self.time_embedding = MLP(config.time_frequencies, width, width, F.silu, **exact)
        self.time_projection = Linear(width, 6 * width, **exact)
        self.text_embedding = MLP(config.text_width, width, width, gelu_tanh, **mixed)
        if config.has_image:
            self.image_norm_in = Scale(config.image_width, bias=True)
            self.image_embedding = MLP(config.image_width, config.image_width, width, F.gelu, **mixed)
            self.image_norm_out = Scale(width, bias=True)
        if config.has_audio:
            self.audio_projection = Linear(config.audio_width, config.audio_dim, **mixed)
            self.audio_norm = Scale(config.audio_dim, bias=True)
            self.audio_position = parameter(config.audio_slots, config.audio_dim)
            self.mode_embedding = parameter(2, width)
        self.blocks = nn.ModuleList(Block(config, dtype) for _ in range(config.layers))
        self.head = Linear(width, cells * config.out_channels, **exact)
        self.head_modulation = parameter(2, width)
        self.config, self.dtype = config, dtype

    def modulations(self, sigmas: tuple[float, ...]) -> list[tuple[list[Tensor], Tensor]]:
        """For every noise level, the modulation of every block [6 d] and of the head [2 d], scales plus 1."""
        half, device = self.config.time_frequencies // 2, self.head_modulation.device
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(half).double() / half).float()
        ones = torch.tensor([0.0, 1, 0, 0, 1, 0], device=device)[:, None]
        made = []
        for sigma in sigmas:
            angles = 1000.0 * torch.tensor(sigma, dtype=torch.float32) * frequencies
            features = torch.cat([angles.cos(), angles.sin()]).to(device)
            time = self.time_embedding(features)
            shared = self.time_projection(F.silu(time)).view(6, -1) + ones
            blocks = [block.modulation + shared for block in self.blocks]
            made.append((blocks, self.head_modulation + time + ones[:2]))
        return made

    def text_tokens(self, text: Tensor) -> Tensor:
        """Embedded text [m d]."""
        return self.text_embedding(text.to(self.dtype))

    def image_tokens(self, image: Tensor) -> Tensor:
        """The embedded picture [m d] from its features [m image_width]."""
        norm_in, norm_out, eps = self.image_norm_in, self.image_norm_out, self.config.image_eps
        normed = layer_norm(image, eps, norm_in.weight, norm_in.bias).to(self.dtype)
        return layer_norm(self.image_embedding(normed), eps, norm_out.weight, norm_out.bias).to(self.dtype)

    def audio_tokens(self, windows: Tensor) -> Tensor:
        """Embedded sound [g a audio_dim] from its windows [g a audio_width]."""
        projected = self.audio_projection(windows.to(self.dtype))
        normed = layer_norm(projected, self.config.audio_eps, self.audio_norm.weight, self.audio_norm.bias)
        return (normed + self.audio_position).to(self.dtype)

    def embed(self, noisy: Tensor, condition: Tensor | None, mode: Tensor | None) -> Tensor:
        """Tokens [l d] of noisy latents [g h w c] beside their condition; mode [g] is 0 or 1."""
        if condition is not None:
            noisy = torch.cat([noisy, condition], -1)
        _, high, wide = self.config.patch
        cells = noisy.unflatten(2, (-1, wide)).unflatten(1, (-1, high)).transpose(2, 3)
        x = self.patch_embedding(cells.flatten(3).flatten(1, 2).to(self.dtype))
        if mode is not None:
            x = x + self.mode_embedding[mode].to(self.dtype)[:, None]
        return x.flatten(0, 1)

    def predict(self, x: Tensor, modulation: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """What the last layer gives, [g h w c] float32, of tokens [l d] and the head's modulation [2 d]."""
        frames, height, width = shape
        _, high, wide = self.config.patch
        y = self.head(layer_norm(x, self.config.eps, modulation[1], modulation[0]))
        y = y.view(frames, height // high, width // wide, high, wide, -1).transpose(2, 3)
        return y.reshape(frames, height, width, -1)

    def velocity(self, prediction: Tensor, noisy: Tensor, condition: Tensor | None, sigma: float) -> Tensor:
        """The velocity that belongs to what the last layer gave."""
        if self.config.predicts == "velocity":
            return prediction
        clean = condition[..., -self.config.out_channels :] + self.config.change_scale * prediction
        return (noisy - clean) / max(sigma, LEAST_SIGMA)
