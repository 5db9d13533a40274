"""The streaming chunk, planned on the fewest devices that hold the student: the engine's own programs.

The DiT is split over ``tensor`` by the rules of training; the VAE decodes on a device of its own.
"""

import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tm_jax.diffusion.rollout import init_stream, make_reference
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.flops import vae_decode_flops
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.plan.hardware import Topology, topology
from tm_jax.plan.roofline import Roofline, Traffic, parameters, roofline
from tm_jax.sharding import AnyMesh, MeshConfig, array_sharding, replicated
from tm_jax.streaming.jax_engine import decode, denoise
from tm_jax.training.abstract import conditioning_shapes, placed, with_shardings
from tm_jax.training.networks import frozen_dit
from tm_jax.training.passes import ClipShape, stream_passes
from tm_jax.types import Conditioning

VAE_KERNELS = 0.34
"""Share of the peak that the decoder's convolutions reach: 26.6 TFLOP in 80 ms on one H100."""

CHUNK, DECODE = STREAMED = "chunk", "decode"


def held_bytes(model: DiTConfig, chunk: int, grid: tuple[int, int], contexts: int) -> float:
    """Bytes of a student in bfloat16 with the keys and values of a stream, on all its devices together."""
    tokens = grid[0] // model.patch[1] * (grid[1] // model.patch[2]) * chunk
    # Two chunks remembered in each context, text and picture once; keys and values of every layer.
    read = 2 * contexts * tokens + model.text_length + model.image_length
    return 2.0 * sum(parameters(model)) + 2.0 * 2 * model.layers * read * model.width


def where_streamed(experiment: Any, chip: Topology) -> tuple[Topology, MeshConfig]:
    """The fewest devices of a topology's kind that hold a student, three quarters full."""
    rollout, model = experiment.rollout, experiment.model
    needed = held_bytes(model, rollout.chunk, experiment.videos.grid, rollout.contexts) / (
        0.75 * chip.chip.hbm
    )
    if chip.gpu:
        forms = {1: "1x1", 2: "1x2", 4: "1x4", 8: "1x8"}
    elif chip.chip.dimensions == 2:
        forms = {1: "1x1", 4: "2x2", 8: "2x4"}
    else:
        forms = {1: "1x1x1", 4: "2x2x1", 8: "2x2x2"}
    kind = chip.name.rpartition(":")[0]
    chips = next((count for count in forms if count * chip.chip.devices >= needed), max(forms))
    found = topology(f"{kind}:{forms[chips]}")
    return found, MeshConfig(fsdp=1, tensor=found.devices)


def stream_steps(experiment: Any, mesh: AnyMesh) -> dict[str, tuple[Any, tuple]]:
    """The engine's programs for one chunk, with abstract arguments."""
    model, rollout, grid = experiment.model, experiment.rollout, experiment.videos.grid
    rules, frames = experiment.loop.rules, model.trained_frames
    student = placed(jax.eval_shape(lambda: frozen_dit(model)), mesh, rules)
    shapes = conditioning_shapes(model, experiment.clip, grid, frames=frames, reference_frames=frames)

    def begin(student, conditioning):
        reference = make_reference(student, Conditioning(**conditioning))
        return reference, init_stream(student, rollout, reference)

    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), shapes)

    def place(leaf):
        # Keys and values [layers b tokens n k] lie where their heads are made.
        names = (None, None, None, "whole_heads", None) if leaf.shape[3:4] == (model.heads,) else ()
        return array_sharding(leaf.shape, names, mesh, rules) if names else replicated(mesh)

    reference, state = (
        with_shardings(tree, jax.tree.map(place, tree)) for tree in jax.eval_shape(begin, student, one)
    )
    on_all = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype, sharding=replicated(mesh))
    latents = (1, rollout.chunk, *grid, model.out_channels)
    inputs = (
        on_all(rollout.steps, *latents),
        on_all(1, rollout.chunk, model.audio_slots, model.audio_width),
        on_all(1, rollout.chunk, dtype=jnp.int32),
    )
    return {CHUNK: (denoise, (student, rollout, reference, state, *inputs))}


def decode_steps(experiment: Any, mesh: AnyMesh) -> dict[str, tuple[Any, tuple]]:
    """The decoder's program for one latent in mid-stream, of a VAE of Wan2.1's sizes in bfloat16."""
    grid, everywhere = experiment.videos.grid, replicated(mesh)
    vae = jax.eval_shape(lambda: VAE(VAEConfig(dtype="bfloat16"), rngs=nnx.Rngs(0)))
    state = jax.eval_shape(lambda vae: vae.decode_state(1, *grid), vae)
    latents = jax.ShapeDtypeStruct((1, experiment.rollout.chunk, *grid, vae.config.z_dim), jnp.float32)
    index = jax.ShapeDtypeStruct((), jnp.int32)
    on_all = lambda tree: jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), tree
    )
    # Which of a stream's latents it is, the decoder is told by keyword.
    later = types.SimpleNamespace(lower=functools.partial(decode.lower, first=False))
    return {DECODE: (later, tuple(map(on_all, (vae, latents, index, state))))}


def stream_times(experiment: Any, where: Topology, mesh: dict[str, int]) -> dict[str, Roofline]:
    """The time of a chunk on these devices, and of its frames' decoding on one more."""
    model, rollout, grid = experiment.model, experiment.rollout, experiment.videos.grid
    tokens = grid[0] // model.patch[1] * (grid[1] // model.patch[2])
    passes = stream_passes(model, ClipShape(rollout.chunk, *grid), rollout, condition=False)
    chunk = roofline(
        passes, model, batch=1, tokens_per_frame=tokens, mesh=mesh, where=where, remat=model.remat
    )
    flops = vae_decode_flops(VAEConfig(), latents=rollout.chunk, height=grid[0], width=grid[1])
    peak, none = where.chip.flops, Traffic(0.0, 0.0, 0.0, 0.0)
    decoded = Roofline(
        flops / (peak * VAE_KERNELS), 0.0, 0.0, 0.0, 0.0, 0.0, flops, flops, none, 0.0, peak, VAE_KERNELS
    )
    return {CHUNK: chunk, DECODE: decoded}


def frames_a_second(experiment: Any, times: dict[str, Roofline]) -> float:
    """Video frames a second while one chunk is denoised and the one before is decoded."""
    return 4 * experiment.rollout.chunk / max(one.step for one in times.values())
