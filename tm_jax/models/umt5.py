"""UMT5 encoder: the prompt's tokens → 4096-wide embeddings (METHOD §2, Wan2.1's text encoder).

Pre-norm T5 with what sets UMT5 apart: each layer has its own table of relative positions, queries
and keys are not scaled, and the norms subtract no mean.  Wan pads every prompt to 512 tokens, masks
the pads inside the encoder, and zeroes their outputs (``embed_prompt``).

Dropout is left out: the encoder is only ever run, never trained.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from tm_jax.errors import InputError
from tm_jax.nn.layers import RMSNorm, dense, gelu_tanh


@dataclasses.dataclass(frozen=True)
class UMT5Config:
    """Sizes of the encoder; the defaults are UMT5-XXL's."""

    vocab_size: int = 256384
    """Entries of the token table."""
    width: int = 4096
    """Width of the residual stream and of the output."""
    heads: int = 64
    """Attention heads."""
    head_dim: int = 64
    """Width of one head; heads × head_dim need not be the width."""
    ffn: int = 10240
    """Hidden units of the gated feed-forward layer."""
    layers: int = 24
    """Blocks."""
    buckets: int = 32
    """Relative-position buckets of each layer, half of them for each direction."""
    max_distance: int = 128
    """Distance in tokens from which on all positions share the last bucket."""
    eps: float = 1e-6
    """Added to the mean square in the norms."""
    text_length: int = 512
    """Tokens to which a prompt's embedding is padded."""
    dtype: str = "bfloat16"
    """Compute dtype; parameters, norms and softmax stay float32."""

    def __post_init__(self):
        if self.buckets < 4 or self.buckets % 4:
            raise ValueError(f"UMT5Config.buckets = {self.buckets}: must be a multiple of 4")
        if self.max_distance <= self.buckets // 4:
            raise ValueError(f"UMT5Config.max_distance = {self.max_distance}: must exceed buckets / 4")


def position_buckets(length: int, buckets: int = 32, max_distance: int = 128) -> np.ndarray:
    """The bucket of every (query, key) pair: int32 [length, length].

    Half of the buckets serve keys after the query.  In each half the first distances have a bucket
    each, and the rest share buckets that widen logarithmically up to ``max_distance``.
    """
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    # float32 throughout: 2^k-fold distances fall on a bucket's border, so rounding is part of the model.
    ratio = np.log(np.maximum(distance, exact).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + ratio.astype(np.int32), half - 1)
    return (np.where(distance < exact, distance, far) + half * (offset > 0)).astype(np.int32)


class UMT5Block(nnx.Module):
    """Self-attention with a relative bias, then a gated feed-forward layer, each behind its norm."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        c, inner = config, config.heads * config.head_dim

        def linear(n_in, n_out, axes, scale=1.0):
            init = nnx.initializers.normal(scale * n_in**-0.5)
            return dense(n_in, n_out, axes, rngs=rngs, dtype=c.dtype, use_bias=False, init=init)

        self.config = config
        self.attention_norm = RMSNorm(c.width, eps=c.eps)
        # Queries carry the 1/√head_dim that the logits lack: that is how such a model is initialised.
        self.query = linear(c.width, inner, ("embed", "heads"), c.head_dim**-0.5)
        self.key = linear(c.width, inner, ("embed", "heads"))
        self.value = linear(c.width, inner, ("embed", "heads"))
        self.out = linear(inner, c.width, ("heads", "embed"))
        bias = nnx.initializers.normal(c.width**-0.5)(rngs.params(), (c.buckets, c.heads))
        self.position_bias = nnx.Param(bias, axes=(None, "heads"))
        self.ffn_norm = RMSNorm(c.width, eps=c.eps)
        self.gate = linear(c.width, c.ffn, ("embed", "mlp"))
        self.up = linear(c.width, c.ffn, ("embed", "mlp"))
        self.down = linear(c.ffn, c.width, ("mlp", "embed"))

    def __call__(
        self, x: Float[Array, "b l d"], buckets: Int[Array, "l l"], mask: Bool[Array, "b l"]
    ) -> Float[Array, "b l d"]:
        """One block; keys where ``mask`` is false are not attended."""
        c = self.config
        b, length, _ = x.shape
        h = self.attention_norm(x).astype(c.dtype)
        q, k, v = (f(h).reshape(b, length, c.heads, c.head_dim) for f in (self.query, self.key, self.value))
        bias = self.position_bias[...][buckets].transpose(2, 0, 1)[None]
        attended = jax.nn.dot_product_attention(q, k, v, bias, mask[:, None, None, :], scale=1.0)
        x = x + self.out(attended.reshape(b, length, -1))
        h = self.ffn_norm(x).astype(c.dtype)
        return x + self.down(gelu_tanh(self.gate(h)) * self.up(h))


class UMT5(nnx.Module):
    """The encoder: token ids → embeddings."""

    def __init__(self, config: UMT5Config = UMT5Config(), *, rngs: nnx.Rngs):
        self.config = config
        table = nnx.initializers.normal(1.0)(rngs.params(), (config.vocab_size, config.width))
        self.embedding = nnx.Param(table, axes=(None, "embed"))
        keys = jax.random.split(rngs.params(), config.layers)
        self.blocks = jax.vmap(lambda key: UMT5Block(config, rngs=nnx.Rngs(key)))(keys)
        self.final_norm = RMSNorm(config.width, eps=config.eps)

    def _run(self, ids, mask, keep: bool):
        c = self.config
        x = self.embedding[...][ids].astype(c.dtype)
        buckets = jnp.asarray(position_buckets(ids.shape[1], c.buckets, c.max_distance))

        def step(x, block):
            y = block(x, buckets, mask)
            return y, (y if keep else None)

        last, outputs = jax.lax.scan(step, x, self.blocks)
        return x, outputs, self.final_norm(last).astype(c.dtype)

    def __call__(self, ids: Int[Array, "b l"], mask: Bool[Array, "b l"]) -> Float[Array, "b l d"]:
        """Embeddings of every position, pads included; ``mask`` is true on the text's tokens."""
        return self._run(ids, mask, keep=False)[2]

    def hidden_states(
        self, ids: Int[Array, "b l"], mask: Bool[Array, "b l"]
    ) -> tuple[Float[Array, "states b l d"], Float[Array, "b l d"]]:
        """The token embeddings and each block's output, stacked, and beside them the normed last one."""
        first, outputs, normed = self._run(ids, mask, keep=True)
        return jnp.concatenate([first[None], outputs]), normed

    def embed_prompt(self, ids: Int[Array, "b l"], mask: Bool[Array, "b l"]) -> Float[Array, "b text d"]:
        """What Wan's transformer reads: embeddings of the text, zero from its end up to ``text_length``.

        Shorter ``ids`` give the same result as ids padded to ``text_length``, for less work.
        Raises InputError when there are more ids than ``text_length``.
        """
        short = self.config.text_length - ids.shape[1]
        if short < 0:
            raise InputError(
                f"the prompt has {ids.shape[1]} tokens, the model reads {self.config.text_length}: shorten it"
            )
        x = jnp.where(mask[..., None], self(ids, mask), 0)
        return jnp.pad(x, ((0, 0), (0, short), (0, 0)))
