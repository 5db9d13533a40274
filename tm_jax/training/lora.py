"""LoRA: student and critic as one frozen transformer and, for each of them, low-rank changes of its kernels.

    W + A·B     W [in, out] frozen, in the compute dtype;  A [in, r], B [r, out] trained in float32

Every kernel of the blocks has an adapter: queries, keys, values and outputs of self- and cross-attention,
keys and values of image and audio, both layers of the feed-forward.  Biases, norms, modulation, embeddings
and head stay the frozen transformer's.  B begins at zero: step 0 is the frozen transformer, bit for bit.

The sum is made inside the jitted step and rounded to W's precision, as a block rounds float32 kernels; what
is trained is what is shipped, and no other code knows of adapters.  This saves memory, not time: the gradient
of W is computed all the same, and dA = dW·Bᵀ and dB = Aᵀ·dW follow from it.  There is no factor α / r: Adam's
step does not depend on a gradient's scale.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray

from tm_jax.models.dit import DiT
from tm_jax.pretrained.names import paths, with_values
from tm_jax.sharding import ShardingRules, gathered, keep_sharded


class Adapter(nnx.Module):
    """The change of one kernel, or of the kernels of a stack of layers.

    The factors bear the names of the kernel's axes, so that each lies in as many parts as the kernel; the
    axis that they share is whole while they are multiplied.
    """

    def __init__(self, kernel: nnx.Variable, rank: int, key: PRNGKeyArray):
        *stack, inputs, outputs = kernel.shape
        rank, axes = min(rank, inputs, outputs), kernel.get_metadata()["axes"]
        drawn = inputs**-0.5 * jax.random.normal(key, (*stack, inputs, rank))
        self.down = nnx.Param(drawn, axes=axes)
        self.up = nnx.Param(jnp.zeros((*stack, rank, outputs)), axes=axes)

    def change(self, rules: ShardingRules) -> jax.Array:
        """A·B in float32; an update may be smaller than what a product of bfloat16 tells apart."""
        into, out = self.down.get_metadata()["axes"]
        down = gathered(self.down, "float32", rules, whole=(out,))
        up = gathered(self.up, "float32", rules, whole=(into,))
        return jnp.matmul(down[...], up[...], precision="highest")


class Adapters(nnx.Module):
    """An adapter for every kernel of a transformer's blocks."""

    def __init__(self, base: DiT, rank: int, key: PRNGKeyArray):
        """Adapters for a transformer, which may be abstract.

        Args:
          rank: of the changes; a kernel with fewer rows or columns has as many.
        """
        kernels = {name: leaf for name, leaf in paths(base).items() if _is_adapted(name)}
        keys = jax.random.split(key, len(kernels))
        made = {name: Adapter(kernel, rank, keys[i]) for i, (name, kernel) in enumerate(kernels.items())}
        self.of = nnx.Dict(made)


def _is_adapted(name: str) -> bool:
    return name.startswith("blocks.") and name.endswith(".kernel")


def merged(base: DiT, adapters: Adapters, rules: ShardingRules = ShardingRules()) -> DiT:
    """The transformer with its changes, stored like the frozen one; traceable, differentiable."""
    values = {name: leaf[...] for name, leaf in paths(base).items()}
    for name, adapter in adapters.of.items():
        changed = values[name].astype(jnp.float32) + adapter.change(rules)
        values[name] = changed.astype(values[name].dtype)
    return keep_sharded(with_values(base, values), rules)


def whole(base: DiT | None, trained: Any, rules: ShardingRules) -> DiT:
    """The transformer in training: ``trained`` itself, or a frozen one with these changes."""
    return trained if base is None else merged(base, trained, rules)


def through(base: DiT | None, loss: Callable, rules: ShardingRules) -> Callable:
    """A loss of a transformer as one of what is trained of it."""
    return lambda trained, inputs: loss(whole(base, trained, rules), inputs)
