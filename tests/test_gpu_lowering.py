"""The steps of the wan* presets as a GPU would get them: what cuDNN refuses is told where there is no GPU."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tm_jax.diffusion.rollout import Reference, generate_chunk, init_stream
from tm_jax.models.dit import DiT
from tm_jax.nn.attention import attention
from tm_jax.nn.masks import Bidirectional, SparseCausal
from tm_jax.training.abstract import conditioning_shapes, latent_shapes
from tm_jax.types import Conditioning

GRID = (64, 64)


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """A GPU to trace for: JAX asks the machine for cuDNN's version, and we for the platform."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91200)
    monkeypatch.setattr("tm_jax.nn.attention.platform", lambda: "gpu")


def kernels(function, *arguments) -> int:
    """Calls of cuDNN's attention in the program for a GPU."""
    text = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    return text.count("__cudnn$fmha")


def abstract(preset):
    """The preset's model, one layer of it, and a clip's latents and conditioning, by shape."""
    config = dataclasses.replace(preset.model, layers=1)
    batched = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), tree)
    frames = preset.clip.frames
    told = conditioning_shapes(config, preset.clip, GRID, frames=frames, reference_frames=frames)
    model = jax.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0)))
    return model, batched(latent_shapes(config, preset.clip, GRID)), batched(told)


@pytest.mark.parametrize("name", ["wan1b_teacher", "wan14b_teacher", "wan1b_student", "wan14b_student"])
def test_a_preset_trains_on_a_gpu(name):
    preset = importlib.import_module(f"configs.{name}").PRESET
    model, latents, told = abstract(preset)
    student = name.endswith("student")
    pattern = SparseCausal(preset.clip.chunk) if student else Bidirectional()

    def step(model, noisy, told):
        energy = lambda model: jnp.square(model(noisy, jnp.ones(1), Conditioning(**told), pattern=pattern))
        return jax.grad(lambda model: energy(model).mean())(model)

    # Text and picture, and whole clips or each of seven chunks: forward, again for the gradient, backward.
    assert kernels(step, model, latents, told) == 3 * (2 + (7 if student else 1))


@pytest.mark.parametrize("name", ["wan1b_student", "wan14b_student"])
def test_a_preset_streams_on_a_gpu(name):
    preset = importlib.import_module(f"configs.{name}").PRESET
    model, latents, told = abstract(preset)
    rollout = preset.rollout
    noises = jax.ShapeDtypeStruct((rollout.steps, 1, rollout.chunk, *latents.shape[2:]), jnp.float32)
    cross = jax.eval_shape(lambda model, told: model.condition(Conditioning(**told)), model, told)

    def chunk(model, told, cross, noises):
        told = Conditioning(**told)
        reference = Reference(told, cross)
        state = init_stream(model, rollout, reference)
        return generate_chunk(model, rollout, reference, state, noises, told.frames(0, rollout.chunk))

    assert kernels(chunk, model, told, cross, noises) == 3 * rollout.steps


@pytest.mark.parametrize("keys,dtype,calls", [(257, "bfloat16", 3), (16, "bfloat16", 0), (512, "float32", 0)])
def test_what_the_kernel_cannot_do_goes_elsewhere(keys, dtype, calls):
    """An odd number of keys is padded; few keys, and float32, are XLA's."""
    query = jax.ShapeDtypeStruct((1, 128, 2, 128), dtype)
    key = jax.ShapeDtypeStruct((1, keys, 2, 128), dtype)

    def step(query, key, value):
        loss = lambda *args: attention(*args, backend="auto").astype(jnp.float32).sum()
        return jax.grad(loss, (0, 1, 2))(query, key, value), loss(query, key, value)

    assert kernels(step, query, key, key) == calls
