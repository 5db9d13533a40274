"""The video transformer: Wan2.1's I2V / T2V DiT plus audio, one class for teacher, critic and student.

METHOD §2 (Wan), §4 (audio), §6 and §7 (patterns and cache).  What differs between the roles is an
argument: the attention pattern, the context, the number of frames.  Departures from Wan: the audio
module and the mode embedding, both silent at initialisation; σ in [0, 1] in place of t (t = 1000·σ).

Layers are stacked at construction by vmap and scanned at run time.
"""

import dataclasses
import math
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from tm_jax.diffusion.flow import per_clip
from tm_jax.models.audio_adapter import TOKENS_PER_LATENT, AudioEmbedding
from tm_jax.models.dit_block import Block, CrossKV, Heard
from tm_jax.nn.attention import BACKENDS, attention
from tm_jax.nn.cache import ChunkKV, KVCache, empty_cache
from tm_jax.nn.layers import (
    MLP,
    LayerNorm,
    PatchEmbedding,
    dense,
    gelu_exact,
    gelu_tanh,
    layer_norm,
    time_features,
)
from tm_jax.nn.masks import (
    AttentionPattern,
    Bidirectional,
    gather_roles,
    positions,
    previous_chunks,
    split_chunks,
    valid_roles,
)
from tm_jax.nn.rope import rope_tables, rotate
from tm_jax.sharding import shard
from tm_jax.types import Conditioning

# What a block keeps for its backward pass without remat.  Norms, activations and RoPE cost less to make
# again than to store: a third of the memory, and an eighth of the time on a CPU.
KEEP_PRODUCTS = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names("attention"),
)


LEAST_SIGMA = 0.02
"""Noise level below which a velocity that follows from a clean latent no longer grows."""


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Sizes of the transformer; the defaults are Wan2.1-I2V-14B with the audio module."""

    width: int = 5120
    """Channels of a token."""
    ffn: int = 13824
    """Hidden units of the feed-forward layers."""
    heads: int = 40
    """Attention heads."""
    layers: int = 40
    """Transformer blocks."""
    patch: tuple[int, int, int] = (1, 2, 2)
    """Latent frames, rows and columns in a token; the first must be 1."""
    in_channels: int = 36
    """Noisy latent + mask + condition latent (without image: the noisy latent alone)."""
    out_channels: int = 16
    """Latent channels."""
    text_width: int = 4096
    """Width of a text embedding."""
    text_length: int = 512
    """Text tokens, padding included."""
    image_width: int = 1280
    """Width of an image embedding."""
    image_length: int = 257
    """Image tokens."""
    has_image: bool = True
    """Image-to-video: image tokens and a condition beside the noisy latent.  False is text-to-video."""
    audio_width: int = 768
    """Width of an audio token as it comes in."""
    audio_dim: int = 3072
    """Width of an audio token inside; 0 leaves the audio module and the mode embedding out."""
    audio_left: int = 8
    """Audio tokens of the past in a latent frame's window."""
    audio_lookahead: int = 0
    """Audio tokens of the future in a latent frame's window, 20 ms of latency each, beside those that the
    front end waits for: wav2vec2's window hears 80 ms ahead, which is all the lookahead there is."""
    time_frequencies: int = 256
    """Cosines and sines of the noise level."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    eps: float = 1e-6
    """Added to the variance in norms."""
    image_eps: float = 1e-5
    """The same in the two norms of the image embedding."""
    trained_frames: int = 21
    """Latent frames of a training clip: RoPE positions are pinned at its end."""
    predicts: Literal["velocity", "change"] = "velocity"
    """What the last layer gives: velocity, as Wan's does, or the change from the still condition to the clean
    latent, from which the velocity follows.  To repeat the noise, a velocity must carry a whole token of it
    through the layers, for which a narrow model has no room; a change is zero wherever nothing moves."""
    change_scale: float = 0.5
    """Standard deviation of clean latents round the still condition; read where predicts is change."""
    still_condition: bool = False
    """The condition holds the reference picture, still, in every frame; False is Wan's, mid-grey after the
    first.  What does not move is then beside the noise that hides it, and copying takes no attention."""
    dtype: str = "bfloat16"
    """Compute dtype; parameters, softmax, norms, modulation, RoPE and the head are float32."""
    remat: bool = True
    """Recompute each block in the backward pass; False keeps its products and recomputes the rest."""
    attention: str = "xla"
    """Implementation of attention: xla, cudnn, or blocked (the fastest on a CPU)."""

    def __post_init__(self):
        if self.width % self.heads or self.head_dim % 2:
            raise ValueError(f"width {self.width} does not split into {self.heads} heads of even size")
        if self.patch[0] != 1:
            raise ValueError(f"patch {self.patch}: a token must lie within one latent frame")
        if self.predicts == "change" and not (self.has_image and self.still_condition):
            raise ValueError("predicts 'change': only from a picture held still, so give still_condition too")
        if self.attention not in BACKENDS:
            raise ValueError(f"attention {self.attention!r}: known are {', '.join(BACKENDS)}")

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.width // self.heads

    @property
    def image_patch(self) -> int | None:
        """Side of the square of latent cells that makes one image token; None if a picture encoder does."""
        patch = math.isqrt(self.image_width // self.out_channels)
        return patch if patch and self.image_width == self.out_channels * patch**2 else None

    @property
    def has_audio(self) -> bool:
        """Whether the model hears."""
        return self.audio_dim > 0

    @property
    def audio_slots(self) -> int:
        """Audio tokens in a latent frame's window."""
        return self.audio_left + TOKENS_PER_LATENT + self.audio_lookahead


@flax.struct.dataclass
class ConditionCache:
    """What a stream computes once: keys and values of text and image in every layer."""

    cross: CrossKV


class ImageEmbedding(nnx.Module):
    """Image features → model tokens."""

    def __init__(self, inputs: int, width: int, *, eps: float, dtype: str, rngs: nnx.Rngs):
        self.norm_in = LayerNorm(inputs, eps=eps)
        self.mlp = MLP(inputs, inputs, width, gelu_exact, rngs=rngs, dtype=dtype)
        self.norm_out = LayerNorm(width, eps=eps)
        self.dtype = dtype

    def __call__(self, tokens: Float[Array, "b image image_width"]) -> Float[Array, "b image d"]:
        return self.norm_out(self.mlp(self.norm_in(tokens))).astype(self.dtype)


class DiT(nnx.Module):
    """The transformer.  Velocities v = ε − x of noisy latents x_σ."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        mixed, exact = {"rngs": rngs, "dtype": dtype}, {"rngs": rngs, "dtype": "float32"}
        self.patch_embedding = PatchEmbedding(config.patch, config.in_channels, width, **mixed)
        self.time_embedding = MLP(config.time_frequencies, width, width, jax.nn.silu, **exact)
        self.time_projection = dense(width, 6 * width, ("embed", "mlp"), **exact)
        self.text_embedding = MLP(config.text_width, width, width, gelu_tanh, **mixed)
        if config.has_image:
            self.image_embedding = ImageEmbedding(config.image_width, width, eps=config.image_eps, **mixed)
        if config.has_audio:
            self.audio_embedding = AudioEmbedding(
                config.audio_width, config.audio_dim, config.audio_slots, eps=config.eps, **mixed
            )
            self.mode_embedding = nnx.Param(jnp.zeros((2, width)))
        build = lambda key: Block(config, rngs=nnx.Rngs(key))
        self.blocks = jax.vmap(build)(jax.random.split(rngs.params(), config.layers))
        self.head_modulation = nnx.Param(jax.random.normal(rngs.params(), (2, width)) * width**-0.5)
        zeros = nnx.initializers.zeros
        self.head = dense(
            width, math.prod(config.patch) * config.out_channels, ("embed", None), init=zeros, **exact
        )
        self.config = config

    def __call__(
        self,
        noisy: Float[Array, "b f h w c"],
        sigma: Float[Array, " b"],
        conditioning: Conditioning,
        *,
        pattern: AttentionPattern,
        chunk_indices: Int[Array, " chunks"] | np.ndarray | None = None,
        context: KVCache | None = None,
    ) -> Float[Array, "b f h w c"]:
        """Velocities of a whole clip, at RoPE positions 0 … f-1; float32.

        The long variant gives ``chunk_indices`` and ``context`` together, under SparseCausal: the clip
        is chunk 0 followed by consecutive chunks from later in the stream, ``chunk_indices`` are their
        places in the stream, e.g. (0, 35, 36 … 40), and set the (pinned) positions; the *previous*
        chunk of the clip's second one is the previous chunk of ``context``, the cache that the stream
        held before chunk 35 at this same denoising step.  No gradient flows into ``context``.
        ``conditioning.condition`` is then the caller's to slice by RoPE position.
        """
        frames, (rows, columns) = noisy.shape[1], self._grid(noisy)
        if (chunk_indices is None) != (context is None):
            raise ValueError("chunk_indices and context are given together or not at all")
        tables = lambda at: self._tables(at, rows, columns, max(frames, self.config.trained_frames))
        backend = self.config.attention
        if isinstance(pattern, Bidirectional):
            if context is not None:
                raise ValueError("a context needs the sparse causal pattern")
            natural = tables(np.arange(frames))
            attend = lambda q, k, v, _: attention(rotate(q, natural), rotate(k, natural), v, backend=backend)
        else:
            attend = self._sparse(pattern.chunk, frames, tables, chunk_indices)
        kept = None if context is None else jax.lax.stop_gradient(context.previous())
        x, heard, modulation, time = self._embed(noisy, sigma, conditioning)
        text, image = self._embed_condition(conditioning)
        cross = lambda block, _: block.cross_keys_values(text, image)
        x, _ = self._layers(x, modulation, cross, None, heard, attend, kept, keep_kv=False)
        return self._velocity(self._head(x, time, frames, rows, columns), noisy, sigma, conditioning)

    def condition(self, conditioning: Conditioning) -> ConditionCache:
        """What stays constant in a stream, from ``text_tokens`` and ``image_tokens`` alone."""
        text, image = self._embed_condition(conditioning)
        body = lambda _, block: (None, block.cross_keys_values(text, image))
        return ConditionCache(cross=jax.lax.scan(body, None, self.blocks)[1])

    def chunk(
        self,
        noisy: Float[Array, "b g h w c"],
        sigma: Float[Array, " b"],
        conditioning: Conditioning,
        *,
        positions: Int[Array, " g"],
        context: KVCache,
        condition_cache: ConditionCache | None = None,
    ) -> tuple[Float[Array, "b g h w c"], ChunkKV]:
        """Velocities of one chunk that also reads ``context``, and the keys and values that it wrote.

        ``positions`` are the chunk's own RoPE frames, below ``trained_frames``; the context brings its
        own.  ``condition_cache`` spares the keys and values of text and image.  All may be traced: one
        compiled step serves every chunk of a stream.
        """
        frames, (rows, columns) = noisy.shape[1], self._grid(noisy)
        tables = lambda at: self._tables(at, rows, columns, self.config.trained_frames)
        own, old = tables(positions), tables(context.positions.reshape(-1))
        tokens = frames * rows * columns
        valid = jnp.concatenate([context.valid, jnp.ones((1,), bool)])
        mask = jnp.repeat(valid, tokens, total_repeat_length=3 * tokens)[None, None, None]

        def attend(query, key, value, remembered):
            keys = jnp.concatenate([rotate(remembered.keys, old), rotate(key, own)], axis=1)
            values = jnp.concatenate([remembered.values, value], axis=1)
            return attention(rotate(query, own), keys, values, mask=mask, backend=self.config.attention)

        cache = self.condition(conditioning) if condition_cache is None else condition_cache
        x, heard, modulation, time = self._embed(noisy, sigma, conditioning)
        cross = lambda _, layer: layer
        remembered = ChunkKV(context.keys, context.values)
        x, (keys, values) = self._layers(
            x, modulation, cross, cache.cross, heard, attend, remembered, keep_kv=True
        )
        told = self._head(x, time, frames, rows, columns)
        return self._velocity(told, noisy, sigma, conditioning), ChunkKV(keys, values)

    def empty_cache(self, *, batch: int, chunk: int, height: int, width: int) -> KVCache:
        """The context of chunk 0 for chunks of ``chunk`` latent frames of height × width."""
        config = self.config
        return empty_cache(
            layers=config.layers,
            batch=batch,
            chunk=chunk,
            tokens_per_frame=height // config.patch[1] * (width // config.patch[2]),
            heads=config.heads,
            head_dim=config.head_dim,
            dtype=config.dtype,
        )

    def _grid(self, noisy: Array) -> tuple[int, int]:
        rows, columns = (
            size // patch for size, patch in zip(noisy.shape[2:4], self.config.patch[1:], strict=True)
        )
        if (rows * self.config.patch[1], columns * self.config.patch[2]) != noisy.shape[2:4]:
            raise ValueError(f"latents of {noisy.shape[2:4]} do not split into patches {self.config.patch}")
        return rows, columns

    def _tables(self, frames, rows: int, columns: int, max_frames: int) -> Array:
        return rope_tables(
            frames,
            rows,
            columns,
            head_dim=self.config.head_dim,
            theta=self.config.rope_theta,
            max_frames=max_frames,
        )

    def _sparse(self, chunk: int, frames: int, tables, chunk_indices):
        """Self-attention of every chunk to {0, i-1, i}, over gathered keys: 3 chunks in place of all."""
        if frames % chunk:
            raise ValueError(f"{frames} frames do not split into chunks of {chunk}")
        count, backend = frames // chunk, self.config.attention
        indices = jnp.arange(count) if chunk_indices is None else jnp.asarray(chunk_indices)
        if indices.shape != (count,):
            raise ValueError(f"{indices.shape[0]} chunk indices for {count} chunks")
        valid = valid_roles(indices)
        natural = tables(np.arange(frames))

        def at(role):
            frames_read = positions(
                indices, role, chunk=chunk, trained_frames=self.config.trained_frames
            ).reshape(-1)
            return tables(frames_read)

        pinned = None if chunk_indices is None else {role: at(role) for role in ("previous", "current")}

        def attend(query, key, value, remembered):
            own = natural if pinned is None else pinned["current"]
            raw = split_chunks(key, count)
            key, value = split_chunks(rotate(key, own), count), split_chunks(value, count)
            if remembered is None:
                previous_key, previous_value = previous_chunks(key), previous_chunks(value)
            else:
                moved = previous_chunks(raw, remembered.keys)
                previous_key = rotate(moved.reshape(query.shape), pinned["previous"]).reshape(raw.shape)
                previous_value = previous_chunks(value, remembered.values)
            batch, _, tokens = value.shape[:3]
            fold = lambda x: x.reshape(batch * count, *x.shape[2:])
            mask = jnp.repeat(valid, tokens, axis=-1, total_repeat_length=3 * tokens)
            mask = jnp.broadcast_to(mask[None], (batch, count, 3 * tokens))
            read = attention(
                fold(split_chunks(rotate(query, own), count)),
                fold(gather_roles(key[:, 0], previous_key, key)),
                fold(gather_roles(value[:, 0], previous_value, value)),
                mask=fold(mask)[:, None, None],
                backend=backend,
            )
            return read.reshape(query.shape)

        return attend

    def _embed(self, noisy: Array, sigma: Array, conditioning: Conditioning):
        """Tokens [b l d], audio, block modulation [b 6 d] and time embedding [b d]."""
        config = self.config
        batch, frames = noisy.shape[:2]
        rows, columns = self._grid(noisy)
        _, high, wide = config.patch
        if config.has_image:
            noisy = jnp.concatenate([noisy, conditioning.condition.astype(noisy.dtype)], axis=-1)
        patches = noisy.reshape(batch, frames, rows, high, columns, wide, -1).transpose(0, 1, 2, 4, 3, 5, 6)
        x = self.patch_embedding(patches.reshape(batch, frames, rows * columns, -1))
        heard = None
        if config.has_audio:
            mode = self.mode_embedding[...][conditioning.mode].astype(x.dtype)
            x = x + mode[:, :, None]
            face = conditioning.face_mask.reshape(batch, rows, high, columns, wide).mean((2, 4))
            heard = Heard(
                tokens=self.audio_embedding(conditioning.audio_tokens, conditioning.audio_keep),
                face=face.reshape(batch, -1),
            )
        x = shard(x.reshape(batch, frames * rows * columns, -1), "batch", None, None)
        time = self.time_embedding(time_features(sigma, config.time_frequencies))
        modulation = self.time_projection(jax.nn.silu(time)).reshape(batch, 6, config.width)
        return x, heard, modulation, time

    def _embed_condition(self, conditioning: Conditioning) -> tuple[Array, Array | None]:
        """Text and image as model tokens."""
        text = self.text_embedding(conditioning.text_tokens)
        image = self.image_embedding(conditioning.image_tokens) if self.config.has_image else None
        return text, image

    def _layers(self, x, modulation, cross, cross_layers, heard, attend, context, *, keep_kv: bool):
        """Scan the blocks; ``cross(block, layer of cross_layers)`` gives a block's text and image K/V."""

        def body(x, layer):
            block, cross_layer, remembered = layer
            x, kv = block(x, modulation, cross(block, cross_layer), heard, attend, remembered)
            return x, kv if keep_kv else None

        body = jax.checkpoint(body, prevent_cse=False, policy=None if self.config.remat else KEEP_PRODUCTS)
        return jax.lax.scan(body, x, (self.blocks, cross_layers, context))

    def _head(self, x: Array, time: Array, frames: int, rows: int, columns: int) -> Array:
        """Tokens → what the model predicts [b f h w c], float32."""
        _, high, wide = self.config.patch
        shift, scale = (
            part[:, None] for part in jnp.unstack(self.head_modulation[...][None] + time[:, None], axis=1)
        )
        x = self.head(layer_norm(x, self.config.eps) * (1.0 + scale) + shift)
        x = x.reshape(x.shape[0], frames, rows, columns, high, wide, -1).transpose(0, 1, 2, 4, 3, 5, 6)
        return x.reshape(x.shape[0], frames, rows * high, columns * wide, -1)

    def _velocity(self, told: Array, noisy: Array, sigma: Array, conditioning: Conditioning) -> Array:
        """The velocity that belongs to what the last layer gave."""
        if self.config.predicts == "velocity":
            return told
        still = conditioning.condition[..., -self.config.out_channels :].astype(jnp.float32)
        clean = still + self.config.change_scale * told
        level = jnp.maximum(per_clip(sigma.astype(jnp.float32)), LEAST_SIGMA)
        return (noisy.astype(jnp.float32) - clean) / level
