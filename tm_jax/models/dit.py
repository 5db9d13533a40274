"""The video transformer: Wan2.1's I2V / T2V DiT plus audio, one class for teacher, critic and student.

METHOD §2 (Wan), §4 (audio), §6 and §7 (patterns and cache).  What differs between the roles is an
argument: the attention pattern, the context, the number of frames.  Departures from Wan: the audio
module and the mode embedding, both silent at initialisation; σ in [0, 1] in place of t (t = 1000·σ).

Layers are stacked at construction by vmap and scanned at run time.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from tm_jax.models.audio_adapter import AudioEmbedding
from tm_jax.models.dit_block import AudioInputs, Block, CrossKV
from tm_jax.models.dit_config import DiTConfig
from tm_jax.nn.attention import attention
from tm_jax.nn.cache import ChunkKV, KVCache, empty_cache
from tm_jax.nn.layers import (
    MLP,
    LayerNorm,
    PatchEmbedding,
    dense,
    gelu_exact,
    gelu_tanh,
    layer_norm,
    per_clip,
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
                config.audio_width, config.audio_dim, config.audio_slots, eps=config.audio_eps, **mixed
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
        x, audio, modulation, time = self._embed(noisy, sigma, conditioning)
        text, image = self._embed_condition(conditioning)
        cross = lambda block, _: block.cross_keys_values(text, image)
        x, _ = self._layers(x, modulation, cross, None, audio, attend, kept, keep_kv=False)
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
        x, audio, modulation, time = self._embed(noisy, sigma, conditioning)
        cross = lambda _, layer: layer
        remembered = ChunkKV(context.keys, context.values)
        x, (keys, values) = self._layers(
            x, modulation, cross, cache.cross, audio, attend, remembered, keep_kv=True
        )
        prediction = self._head(x, time, frames, rows, columns)
        return self._velocity(prediction, noisy, sigma, conditioning), ChunkKV(keys, values)

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
        audio = None
        if config.has_audio:
            mode = self.mode_embedding[...][conditioning.mode].astype(x.dtype)
            x = x + mode[:, :, None]
            face = conditioning.face_mask.reshape(batch, rows, high, columns, wide).mean((2, 4))
            audio = AudioInputs(
                tokens=self.audio_embedding(conditioning.audio_tokens, conditioning.audio_keep),
                face=face.reshape(batch, -1),
            )
        x = shard(x.reshape(batch, frames * rows * columns, -1), "batch", None, None)
        time = self.time_embedding(time_features(sigma, config.time_frequencies))
        modulation = self.time_projection(jax.nn.silu(time)).reshape(batch, 6, config.width)
        return x, audio, modulation, time

    def _embed_condition(self, conditioning: Conditioning) -> tuple[Array, Array | None]:
        """Text and image as model tokens."""
        text = self.text_embedding(conditioning.text_tokens)
        image = self.image_embedding(conditioning.image_tokens) if self.config.has_image else None
        return text, image

    def _layers(self, x, modulation, cross, cross_layers, audio, attend, context, *, keep_kv: bool):
        """Scan the blocks; ``cross(block, layer of cross_layers)`` gives a block's text and image K/V."""

        def body(x, layer):
            block, cross_layer, remembered = layer
            x, kv = block(x, modulation, cross(block, cross_layer), audio, attend, remembered)
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

    def _velocity(self, prediction: Array, noisy: Array, sigma: Array, conditioning: Conditioning) -> Array:
        """The velocity that belongs to what the last layer gave."""
        if self.config.predicts == "velocity":
            return prediction
        still = conditioning.condition[..., -self.config.out_channels :].astype(jnp.float32)
        clean = still + self.config.change_scale * prediction
        level = jnp.maximum(per_clip(sigma.astype(jnp.float32)), LEAST_SIGMA)
        return (noisy.astype(jnp.float32) - clean) / level
