"""Shapes and shardings of all that a phase's steps take, without a weight or a byte of data.

The loop places the state by them, and whoever compiles the steps ahead of time needs nothing else: a phase's
``steps(mesh)`` are the very functions that training runs.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from tm_jax.data.latent_clips import ClipConfig
from tm_jax.models.dit_config import DiTConfig
from tm_jax.sharding import AnyMesh, ShardingRules, batch_sharding, shardings_like

Steps = Mapping[str, tuple[Callable, tuple]]
"""By name, a jitted function and its abstract arguments, shardings included: ``f.lower(*arguments)``."""


def compiled_once(name: str, function: Callable, **options: Any) -> Callable:
    """``jax.jit`` of a function that may be traced once: a step that is compiled again costs minutes.

    Args:
      name: of the program, in profiles and in the error.
      options: of ``jax.jit``.
    """
    traced = False

    def once(*arguments: Any) -> Any:
        nonlocal traced
        if traced:
            raise RuntimeError(f"{name} is compiled a second time: its arguments have changed their shapes")
        result = function(*arguments)
        traced = True
        return result

    once.__name__ = name
    return jax.jit(once, **options)


@runtime_checkable
class Initial(Protocol):
    """The part of a phase that says what its state is."""

    def init(self, key: jax.Array) -> Any:
        """The state before the first step, traceable."""


def with_shardings(tree: Any, shardings: Any) -> Any:
    """Shapes that say where their arrays lie."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )


def placed(tree: Any, mesh: AnyMesh, rules: ShardingRules) -> Any:
    """Shapes of modules, optimizer state and scalars, where their names put them."""
    return with_shardings(tree, shardings_like(tree, mesh, rules))


def abstract_state(phase: Initial, mesh: AnyMesh, rules: ShardingRules) -> Any:
    """A phase's state."""
    return placed(jax.eval_shape(phase.init, jax.eval_shape(lambda: jax.random.key(0))), mesh, rules)


def abstract_batch(element: Any, batch: int, mesh: AnyMesh, rules: ShardingRules) -> Any:
    """A batch of elements that are trees of shapes, split over the devices along its first axis."""
    sharding = batch_sharding(mesh, rules)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape), leaf.dtype, sharding=sharding), element
    )


def conditioning_shapes(
    model: DiTConfig, clip: ClipConfig, grid: tuple[int, int], *, frames: int, reference_frames: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """What `data.latent_clips.conditioning_arrays` gives for this many latent frames."""
    real = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    return {
        "text_tokens": real(clip.text_length, clip.text_width),
        "image_tokens": real(model.image_length, model.image_width),
        "condition": real(reference_frames, *grid, 4 + model.out_channels),
        "audio_tokens": real(frames, model.audio_slots, model.audio_width),
        "audio_keep": real(frames),
        "face_mask": real(*grid),
        "mode": jax.ShapeDtypeStruct((frames,), jnp.int32),
    }


def clip_shapes(model: DiTConfig, clip: ClipConfig, grid: tuple[int, int], conditioning: dict) -> dict:
    """What `data.latent_clips.LatentClips` gives."""
    lids = jax.ShapeDtypeStruct((clip.frames,), jnp.float32)
    return {"latents": latent_shapes(model, clip, grid), "lids": lids, "conditioning": conditioning}


def latent_shapes(model: DiTConfig, clip: ClipConfig, grid: tuple[int, int]) -> jax.ShapeDtypeStruct:
    """The latents of one training clip."""
    return jax.ShapeDtypeStruct((clip.frames, *grid, model.out_channels), jnp.float32)
