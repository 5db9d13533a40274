"""The video transformer: Wan2.1's I2V / T2V DiT plus audio, one class for teacher, critic and student.

METHOD §2 (Wan), §4 (audio), §6 and §7 (patterns and cache).  What differs between the roles is an
argument: the attention pattern, the context, the number of frames.  Departures from Wan: the audio
module and the mode embedding, both silent at initialisation; σ in [0, 1] in place of t (t = 1000·σ).

Layers are stacked at construction by vmap and scanned at run time.
"""

import math
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from tm_jax.models.audio_adapter import AudioEmbedding
from tm_jax.models.dit_block import AudioInputs, Block, CrossKV
from tm_jax.models.dit_config import LEAST_SIGMA, DiTConfig
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
from tm_jax.nn.masks import AttentionPattern, Bidirectional, positions
from tm_jax.nn.remat import BLOCK, remat
from tm_jax.nn.rope import rope_tables
from tm_jax.nn.self_attention import Tables, read_all, read_cache, read_chunks, share
from tm_jax.sharding import gathered, shard
from tm_jax.types import Conditioning


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
        chunk_indices: Int[np.ndarray, " chunks"] | None = None,
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
        if isinstance(pattern, Bidirectional):
            if context is not None:
                raise ValueError("a context needs the sparse causal pattern")
            read, stand = read_all, Tables(tables(np.arange(frames)))
        else:
            read, stand = self._sparse(pattern.chunk, frames, tables, chunk_indices)
        read = partial(read, backend=self.config.attention)

        def attend(query, key, value, remembered):
            return share(read, query, key, value, stand, remembered)

        kept = None if context is None else jax.lax.stop_gradient(context.previous())
        x, audio, modulation, time = self._embed(noisy, sigma, conditioning)
        text, image = self._embed_condition(conditioning)
        cross = lambda block, _: block.cross_keys_values(text, image)
        x, _ = self._layers(x, modulation, cross, None, audio, attend, kept, keep_kv=False)
        return self._velocity(self._head(x, time, rows, columns), noisy, sigma, conditioning)

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
        stand = Tables(tables(positions), tables(context.positions.reshape(-1)))
        # Own tokens come first, so that what of the cache is not to be read yet comes last.
        lengths = (1 + context.valid.sum(dtype=jnp.int32)) * (frames * rows * columns)
        lengths = jnp.broadcast_to(lengths, noisy.shape[:1])
        read = partial(read_cache, backend=self.config.attention)

        def attend(query, key, value, remembered):
            return share(read, query, key, value, stand, remembered, lengths)

        cache = self.condition(conditioning) if condition_cache is None else condition_cache
        x, audio, modulation, time = self._embed(noisy, sigma, conditioning)
        cross = lambda _, layer: layer
        remembered = ChunkKV(context.keys, context.values)
        x, written = self._layers(x, modulation, cross, cache.cross, audio, attend, remembered, keep_kv=True)
        return self._velocity(self._head(x, time, rows, columns), noisy, sigma, conditioning), written

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

    def _tables(self, frames, rows: int, columns: int, max_frames: int) -> Float[Array, "f s k"]:
        tables = rope_tables(
            frames,
            rows,
            columns,
            head_dim=self.config.head_dim,
            theta=self.config.rope_theta,
            max_frames=max_frames,
        )
        return tables.reshape(len(frames), rows * columns, -1)

    def _sparse(self, chunk: int, frames: int, tables, chunk_indices):
        """How every chunk reads {0, i-1, i}, and the RoPE tables that it takes."""
        if frames % chunk:
            raise ValueError(f"{frames} frames do not split into chunks of {chunk}")
        count = frames // chunk
        places = np.arange(count) if chunk_indices is None else chunk_indices
        if len(places) != count:
            raise ValueError(f"{len(places)} chunk indices for {count} chunks")
        if chunk_indices is None:
            stand = Tables(tables(np.arange(frames)))
        else:
            at = partial(positions, places, chunk=chunk, trained_frames=self.config.trained_frames)
            stand = Tables(tables(at("current").reshape(-1)), tables(at("previous").reshape(-1)))
        return partial(read_chunks, places=tuple(map(int, places))), stand

    def _embed(self, noisy: Array, sigma: Array, conditioning: Conditioning):
        """Tokens [b f s d], audio, block modulation [b 6 d] and time embedding [b d]."""
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
        x = shard(x, "batch", None, "stream", None)
        time = self.time_embedding(time_features(sigma, config.time_frequencies))
        modulation = self.time_projection(jax.nn.silu(time)).reshape(batch, 6, config.width)
        return x, audio, modulation, time

    def _embed_condition(self, conditioning: Conditioning) -> tuple[Array, Array | None]:
        """Text and image as model tokens."""
        part = lambda embedding: gathered(embedding, self.config.dtype)
        text = part(self.text_embedding)(conditioning.text_tokens)
        image = part(self.image_embedding)(conditioning.image_tokens) if self.config.has_image else None
        return text, image

    def _layers(self, x, modulation, cross, cross_layers, audio, attend, context, *, keep_kv: bool):
        """Scan the blocks; ``cross(block, layer of cross_layers)`` gives a block's text and image K/V."""

        def body(x, layer):
            block, cross_layer, remembered = layer
            x, block = checkpoint_name(x, BLOCK), gathered(block, self.config.dtype)
            x, written = block(x, modulation, cross(block, cross_layer), audio, attend, remembered)
            return x, written if keep_kv else None

        return jax.lax.scan(remat(body, self.config.remat), x, (self.blocks, cross_layers, context))

    def _head(self, x: Array, time: Array, rows: int, columns: int) -> Array:
        """Tokens → what the model predicts [b f h w c], float32."""
        _, high, wide = self.config.patch
        shift, scale = (
            part[:, None, None]
            for part in jnp.unstack(self.head_modulation[...][None] + time[:, None], axis=1)
        )
        x = self.head(layer_norm(x, self.config.eps) * (1.0 + scale) + shift)
        batch, frames = x.shape[:2]
        x = x.reshape(batch, frames, rows, columns, high, wide, -1).transpose(0, 1, 2, 4, 3, 5, 6)
        return x.reshape(batch, frames, rows * high, columns * wide, -1)

    def _velocity(self, prediction: Array, noisy: Array, sigma: Array, conditioning: Conditioning) -> Array:
        """The velocity that belongs to what the last layer gave."""
        prediction = shard(prediction, "batch", None, None, None, None)
        if self.config.predicts == "velocity":
            return prediction
        still = conditioning.condition[..., -self.config.out_channels :].astype(jnp.float32)
        clean = still + self.config.change_scale * prediction
        level = jnp.maximum(per_clip(sigma.astype(jnp.float32)), LEAST_SIGMA)
        return (noisy.astype(jnp.float32) - clean) / level
