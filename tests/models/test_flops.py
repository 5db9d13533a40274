"""The analytic count of operations against the count of the traced program's own equations."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from configs.tiny_teacher import MODEL as TINY
from configs.tiny_vae import MODEL as TINY_VAE
from configs.wan1b_teacher import MODEL as WAN1B
from configs.wan14b_teacher import MODEL as WAN14B
from tests.models.jaxpr_flops import count
from tm_jax.diffusion.rollout import Reference, generate_chunk, init_stream
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.models.dit import DiT
from tm_jax.models.flops import (
    chunk_flops,
    condition_flops,
    dit_flops,
    vae_decode_flops,
    vae_encode_flops,
)
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.nn.masks import Bidirectional, SparseCausal
from tm_jax.types import Conditioning

# A model, latent frames, the side of the latent grid.
SIZES = {"tiny": (TINY, 12, 16), "wan1b": (WAN1B, 21, 64), "wan14b": (WAN14B, 21, 64)}


def shapes(config, frames, side, batch=1):
    """Noisy latents, noise level and the members of a clip's conditioning, by shape."""
    make = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct((batch, *sizes), dtype)
    conditioning = {
        "text_tokens": make(config.text_length, config.text_width),
        "image_tokens": make(config.image_length, config.image_width),
        "condition": make(frames, side, side, config.in_channels - config.out_channels),
        "audio_tokens": make(frames, config.audio_slots, config.audio_width),
        "audio_keep": make(frames),
        "face_mask": make(side, side),
        "mode": make(frames, dtype=jnp.int32),
    }
    return make(frames, side, side, config.out_channels), make(), conditioning


def abstract(module, config):
    return jax.eval_shape(lambda: module(config, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(
    ("size", "chunk", "remat"),
    [
        *itertools.product(("tiny", "wan14b"), (None, 3), ("full", "products")),
        ("tiny", 3, "none"),
        ("wan1b", None, "full"),
    ],
)
def test_the_transformer_forward_and_backward(size, chunk, remat):
    config, frames, side = SIZES[size]
    config = dataclasses.replace(config, attention="xla", remat=remat)
    pattern = Bidirectional() if chunk is None else SparseCausal(chunk)
    model = abstract(DiT, config)
    inputs = shapes(config, frames, side, batch=2)
    run = lambda model, noisy, sigma, whole: model(noisy, sigma, Conditioning(**whole), pattern=pattern)
    flops = dit_flops(config, frames=frames, height=side, width=side, chunk=chunk, batch=2)
    assert count(run, model, *inputs) == pytest.approx(flops.forward, rel=0.002)
    gradient = jax.grad(lambda *args: run(*args).sum())
    executed = flops.training + flops.repeated(remat)
    assert count(gradient, model, *inputs) == pytest.approx(executed, rel=0.01)


@pytest.mark.parametrize("clean_kv", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_the_streamed_chunk(size, clean_kv):
    config, frames, side = SIZES[size]
    config = dataclasses.replace(config, attention="xla")
    model = abstract(DiT, config)
    _, _, whole = shapes(config, frames, side)
    rollout = RolloutConfig(chunk=3, steps=2, clean_kv=clean_kv)

    condition = lambda model, whole: model.condition(Conditioning(**whole))
    assert count(condition, model, whole) == pytest.approx(condition_flops(config), rel=0.002)

    def run(model, whole, noises, cross):
        whole = Conditioning(**whole)
        reference = Reference(whole, cross)
        state = init_stream(model, rollout, reference)
        return generate_chunk(model, rollout, reference, state, noises, whole.frames(0, 3))

    noises = jax.ShapeDtypeStruct((2, 1, 3, side, side, config.out_channels), jnp.float32)
    cross = jax.eval_shape(condition, model, whole)
    expected = rollout.evaluations * chunk_flops(config, chunk=3, height=side, width=side).forward
    assert count(run, model, whole, noises, cross) == pytest.approx(expected, rel=0.002)


@pytest.mark.parametrize(
    ("config", "side"),
    [
        (VAEConfig(), 512),
        (TINY_VAE, 128),
        (dataclasses.replace(TINY_VAE, refine_blocks=2), 128),
    ],
    ids=["wan", "tiny", "refined"],
)
def test_the_vae(config, side):
    vae, cells = abstract(VAE, config), side // config.spatial_stride
    video = jax.ShapeDtypeStruct((1, 9, side, side, 3), jnp.float32)
    latents = jax.ShapeDtypeStruct((1, 3, cells, cells, config.z_dim), jnp.float32)
    encoded = vae_encode_flops(config, frames=9, height=side, width=side)
    assert count(lambda vae, video: vae.encode(video), vae, video) == pytest.approx(encoded, rel=0.01)
    whole = vae_decode_flops(config, latents=3, height=cells, width=cells, starts=True)
    assert count(lambda vae, latents: vae.decode(latents), vae, latents) == pytest.approx(whole, rel=0.01)
    state = jax.eval_shape(lambda vae: vae.decode_state(1, cells, cells), vae)
    step = lambda vae, latents, state: vae.decode_chunk(latents, state, first=False)
    later = vae_decode_flops(config, latents=3, height=cells, width=cells)
    assert count(step, vae, latents, state) == pytest.approx(later, rel=0.01)
