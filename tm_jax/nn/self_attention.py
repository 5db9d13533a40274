"""Self-attention of the transformer: what a clip's tokens read, and how devices share the tokens.

Three readings, each a function of whole sequences of some heads:

    read_all       every token reads every token: the teacher, the critic
    read_chunks    chunk i reads chunks {0, i-1, i} of its clip: the student in training
    read_cache     one chunk reads itself, the first and the previous one: the student in a stream

Between attentions each device of the context axis holds a part of the tokens of every latent frame.
``share`` brings a device all tokens of some heads and back (all-to-all, as in DeepSpeed's Ulysses).  Where
the heads don't divide it gathers keys and values instead, which sends as much as a ring would, and every
device reads with its own queries: as all hold tokens of every frame, the chunks' work stays even.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array

from tm_jax.nn.attention import attention
from tm_jax.nn.cache import ChunkKV
from tm_jax.nn.rope import rotate
from tm_jax.sharding import per_shard, split_over

IN_TOKENS = ("batch", None, "tokens", "heads", None)
"""Names of the axes of queries, keys and values [b f s n k] between attentions."""
IN_HEADS = ("batch", None, None, "whole_heads", None)


@flax.struct.dataclass
class Tables:
    """RoPE tables of what self-attention reads.  (Not type-checked: `per_shard` puts specs there.)"""

    own: Any
    """[f s k], the clip's tokens where they stand."""
    previous: Any = None
    """[f s k], in each chunk's place the chunk before it where that chunk reads it; None for where it stands.
    In a stream [2g s k], the cache's tokens."""


def _flat(x: Array) -> Array:
    """``[b f s …]`` → ``[b l …]``."""
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _turned(x: Array, tables: Array) -> Array:
    """``[b f s n k]`` → ``[b l n k]``, turned by ``[f s k]``."""
    return rotate(_flat(x), tables.reshape(-1, tables.shape[-1]))


def read_all(query, key, value, stand: Array, tables: Tables, remembered: None, *, backend: str) -> Array:
    """Every token reads every token; here as in the others [b l n k], l tokens in the queries' order.

    Args:
      query: [b f s n k]; s may be a part of each frame's tokens.
      key, value: [b f s n k], always whole.
      stand: RoPE tables of the queries, [f s k].
    """
    return attention(_turned(query, stand), _turned(key, tables.own), _flat(value), backend=backend)


def read_chunks(
    query,
    key,
    value,
    stand: Array,
    tables: Tables,
    remembered: ChunkKV | None,
    *,
    places: tuple[int, ...],
    backend: str,
) -> Array:
    """Each chunk reads the first one, the one before it and itself: as many attentions as chunks.

    What a chunk reads are slices, laid side by side for one attention at a time, and no mask.

    Args:
      places: of the chunks, in the stream that the clip is cut from.
      remembered: the chunk before the clip's second one, if that is not its first: [b m n k], before RoPE.
    """
    count = len(places)
    split = lambda x: jnp.split(x, count, axis=1)
    queries, own, values = split(_turned(query, stand)), split(_turned(key, tables.own)), split(_flat(value))
    raw = split(_flat(key))

    def previous(i: int) -> tuple[Array, Array]:
        if tables.previous is None:
            return own[i - 1], values[i - 1]
        before = (raw[i - 1], values[i - 1])
        if i == 1 and remembered is not None:
            before = (remembered.keys, remembered.values)
        read_at = jnp.split(tables.previous, count)[i]
        return rotate(before[0], read_at.reshape(-1, read_at.shape[-1])), before[1]

    read = []
    for i, place in enumerate(places):
        roles = [(own[0], values[0])] if place > 0 else []
        roles += [previous(i)] if place > 1 else []
        keys, of = zip(*roles, (own[i], values[i]), strict=True)
        read.append(attention(queries[i], jnp.concatenate(keys, 1), jnp.concatenate(of, 1), backend=backend))
    return jnp.concatenate(read, axis=1)


def read_cache(
    query, key, value, stand: Array, tables: Tables, remembered: ChunkKV, lengths: Array, *, backend: str
) -> Array:
    """One chunk reads itself and, as far as ``lengths`` say, a stream's cache: first chunk, then previous."""
    size = tables.previous.shape[-1]
    old = rotate(remembered.keys, tables.previous.reshape(-1, size))
    keys = jnp.concatenate([_turned(key, tables.own), old], axis=1)
    values = jnp.concatenate([_flat(value), remembered.values], axis=1)
    return attention(_turned(query, stand), keys, values, lengths=lengths, backend=backend)


def share(
    read: Callable, query: Array, key: Array, value: Array, tables: Tables, remembered: ChunkKV | None, *more
) -> tuple[Array, ChunkKV]:
    """One of the readings on all devices: what each token read [b f s n k], and the keys (before RoPE) and
    values [b l n k] that were written.

    Args:
      more: further arguments of ``read``, with the batch as their first axis.
    """
    batch, frames, tokens, heads, size = query.shape
    context = split_over("tokens", tokens)
    exchanged = set(context) <= set(split_over("whole_heads", heads))
    given = IN_TOKENS if context else IN_HEADS
    of_heads = "whole_heads" if exchanged else "heads"
    cached = ("batch", None, of_heads, None)

    def local(query, key, value, stand, tables, remembered, *more):
        if context and exchanged:
            bring = lambda x: jax.lax.all_to_all(x, context, split_axis=3, concat_axis=2, tiled=True)
            query, key, value = bring(query), bring(key), bring(value)
        elif context:
            whole = lambda x: jax.lax.all_gather(x, context, axis=2, tiled=True)
            key, value = whole(key), whole(value)
        out = read(query, key, value, stand, tables, remembered, *more).reshape(query.shape)
        if context and exchanged:
            out = jax.lax.all_to_all(out, context, split_axis=2, concat_axis=3, tiled=True)
        return out, _flat(key), _flat(value)

    stand = (None, None if exchanged else "tokens", None)
    everywhere = (None, None, None)
    out, keys, values = per_shard(
        local,
        query,
        key,
        value,
        tables.own,
        tables,
        remembered,
        *more,
        names=(given, given, given, stand, everywhere, cached, *(("batch",),) * len(more)),
        out=((given, query.shape), *((cached, (batch, frames * tokens, heads, size)),) * 2),
    )
    return out, ChunkKV(keys, values)


def each_its_own(read: Callable, query: Array, *inputs: tuple[Array, tuple[str | None, ...]]) -> Array:
    """``read`` on every device for its own queries [b f s n k], with inputs that all tokens share.

    Args:
      inputs: arrays, each with the names of its axes.
    """
    arrays, names = zip(*inputs, strict=True)
    local = lambda *arrays: (read(*arrays),)
    whole = ((IN_TOKENS, query.shape),)
    return per_shard(local, query, *arrays, names=(IN_TOKENS, *names), out=whole)[0]
