"""A batch in parts, one after the other: the activations of one part, the gradient of all.

Every device keeps its rows: a part takes an equal number of each device's.  Randomness is drawn for the whole
batch before it is split, so that a step is the same, but for rounding, in however many parts it is made.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tm_jax.sharding import ShardingRules, keep_sharded, shard
from tm_jax.training.optim import name_mask

Metrics = dict[str, jax.Array]
Loss = Callable[[Any, Any], tuple[jax.Array, Metrics]]
"""(model, inputs) → what is minimised, and figures to log."""

WHOLE = -1
"""In place of an axis: this array is the same in every part."""


def split_batch(leaves: list[jax.Array], parts: int, axes: Sequence[int] | None = None) -> list[jax.Array]:
    """The arrays with an axis of parts in front; row r of the batch goes to part r mod parts.

    Args:
      axes: each array's batch axis, or WHOLE; None is 0 for all.
    """

    def one(x: jax.Array, axis: int) -> jax.Array:
        if axis == WHOLE:
            return jnp.broadcast_to(x[None], (parts, *x.shape))
        shape = (*x.shape[:axis], x.shape[axis] // parts, parts, *x.shape[axis + 1 :])
        cut = jnp.moveaxis(x.reshape(shape), axis + 1, 0)
        return shard(cut, *(None,) * (axis + 1), "batch")

    return [one(x, axis) for x, axis in zip(leaves, axes or [0] * len(leaves), strict=True)]


def join_batch(leaves: list[jax.Array], axes: Sequence[int] | None = None) -> list[jax.Array]:
    """The inverse of ``split_batch``."""

    def one(x: jax.Array, axis: int) -> jax.Array:
        if axis == WHOLE:
            return x[0]
        together = jnp.moveaxis(x, 0, axis + 1)
        whole = together.reshape(*x.shape[1 : axis + 1], -1, *x.shape[axis + 2 :])
        return shard(whole, *(None,) * axis, "batch")

    return [one(x, axis) for x, axis in zip(leaves, axes or [0] * len(leaves), strict=True)]


def in_parts(
    function: Callable[[Any], Any],
    inputs: Any,
    parts: int,
    axes: Callable[[Any], Sequence[int]] | None = None,
) -> Any:
    """``function`` of every part of the inputs, whose results are joined again; no gradient.

    Args:
      axes: from a result, the batch axes of its leaves; None is 0 for all.
    """
    if parts == 1:
        return function(inputs)
    leaves, treedef = jax.tree.flatten(inputs)
    shape: Any = None

    def flat(part: list[jax.Array]) -> list[jax.Array]:
        nonlocal shape
        result = function(treedef.unflatten(part))
        found, structure = jax.tree.flatten(result)
        shape = structure, None if axes is None else axes(result)
        return found

    found = jax.lax.map(flat, split_batch(leaves, parts))
    return shape[0].unflatten(join_batch(found, shape[1]))


def gradients_of(
    losses: Sequence[Loss],
    model: Any,
    inputs: Any,
    *,
    parts: int = 1,
    axes: Sequence[int] | None = None,
    only: tuple[str, ...] = (),
    rules: ShardingRules = ShardingRules(),
) -> tuple[Any, Metrics]:
    """The gradient of the sum of the losses, each a mean over the batch, and their metrics.

    One loss after the other: only then is the memory of one loss enough.

    Args:
      axes: the batch axes of the inputs' leaves; None is 0 for all.
      only: beginnings of the names of the parameters that learn, () for all; the others' gradients are zeros
        that are never computed.

    Returns:
      The gradient, like the model, and {"grad_norm", the losses' own metrics}.
    """
    leaves, treedef = jax.tree.flatten(inputs)

    def of_part(part: list[jax.Array]) -> tuple[Any, Metrics]:
        total, metrics = None, {}
        for loss in losses:
            frozen, given = model, part
            if total is not None:
                total, frozen, given = jax.lax.optimization_barrier((total, model, part))
            gradient, figures = jax.grad(loss, has_aux=True)(frozen, treedef.unflatten(given))
            if only:
                learns = name_mask(gradient, only)
                gradient = jax.tree.map(lambda x, on: x if on else jnp.zeros_like(x), gradient, learns)
            gradient = keep_sharded(gradient, rules)
            total = gradient if total is None else jax.tree.map(jnp.add, total, gradient)
            metrics |= figures
        return total, metrics

    if parts == 1:
        total, metrics = of_part(leaves)
    else:
        split = split_batch(leaves, parts, axes)
        shapes = jax.eval_shape(of_part, [x[0] for x in split])
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def add(so_far: Any, part: list[jax.Array]) -> tuple[Any, None]:
            total, metrics = jax.tree.map(jnp.add, so_far, of_part(part))
            return (keep_sharded(total, rules), metrics), None

        summed, _ = jax.lax.scan(add, empty, split)
        total, metrics = jax.tree.map(lambda x: x / parts, summed)
    return total, metrics | {"grad_norm": optax.tree.norm(total)}
