"""Our jitted models against PyTorch's eager ones (diffusers) on one machine, as a ratio.

Both hold the same random weights, through the name maps, and get the same inputs, so that a figure also
says how far the results lie apart.  They run in turn, block by block, with a pause in which the other's
idle threads fall asleep; a figure is the median over all blocks.  Both use the cores that the process may
use: ``taskset -c 0,1 python -m tm_jax.bench pytorch`` compares on two.
"""

import dataclasses
import os
import statistics
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from tm_jax.bench.timing import in_turn
from tm_jax.errors import InputError
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.nn.masks import Bidirectional
from tm_jax.pretrained.names import load
from tm_jax.pretrained.wan_dit import DIFFUSERS
from tm_jax.pretrained.wan_vae import wan_vae_names
from tm_jax.types import Conditioning

_PAUSE = 0.5
"""Seconds between blocks."""


@dataclasses.dataclass(frozen=True)
class Size:
    """What is compared: Wan2.1's VAE and its image-to-video transformer without audio, scaled."""

    vae_base: int
    """Channels of the VAE at full resolution; Wan2.1 has 96."""
    latents: tuple[int, int, int]
    """Latent frames, rows and columns."""
    width: int
    """Channels of a token."""
    heads: int
    layers: int

    def vae(self) -> VAEConfig:
        """The VAE's config."""
        return VAEConfig(base_dim=self.vae_base)

    def dit(self) -> DiTConfig:
        """The transformer's config; Wan's proportions, texts and picture tokens."""
        return DiTConfig(
            width=self.width,
            ffn=self.width * 27 // 10,
            heads=self.heads,
            layers=self.layers,
            text_width=self.width,
            audio_dim=0,
            dtype="float32",
            remat="products",
        )


SIZES = {
    "tiny": Size(vae_base=4, latents=(2, 2, 2), width=24, heads=2, layers=1),
    "small": Size(vae_base=32, latents=(3, 12, 12), width=384, heads=6, layers=6),
    "medium": Size(vae_base=96, latents=(3, 16, 16), width=1024, heads=8, layers=8),
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare our VAE and DiT with PyTorch's on this machine."""

    size: Literal["tiny", "small", "medium"] = "small"
    """tiny shows that the command works, small takes a minute or two on two cores, medium ten times that."""
    repeats: int = 3
    """Calls in a block."""
    blocks: int = 3
    """Blocks of either side, in turn."""
    seed: int = 0
    """Seed of weights and inputs."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One function on one size."""

    name: str
    shape: tuple[int, ...]
    """Of the input."""
    ours: float
    """Seconds of a call of ours."""
    theirs: float
    """Seconds of a call of PyTorch's."""
    error: float
    """Relative error between the two results."""

    @property
    def ratio(self) -> float:
        """How many times as fast as PyTorch ours is."""
        return self.theirs / self.ours


def reference() -> tuple[Any, Any]:
    """torch and diffusers, which only this command needs."""
    import diffusers
    import torch

    return torch, diffusers


def filled(model_class: type[nnx.Module], config: Any, theirs: Any, names: Any) -> nnx.Module:
    """Our model with the weights of theirs."""
    abstract = jax.eval_shape(lambda: model_class(config, rngs=nnx.Rngs(0)))
    return load(abstract, {key: value.numpy() for key, value in theirs.state_dict().items()}, names)


def transformer(config: DiTConfig) -> Any:
    """diffusers' transformer of this size, with random weights."""
    _, diffusers = reference()
    return diffusers.WanTransformer3DModel(
        patch_size=config.patch,
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        text_dim=config.text_width,
        freq_dim=config.time_frequencies,
        ffn_dim=config.ffn,
        num_layers=config.layers,
        eps=config.eps,
        image_dim=config.image_width if config.has_image else None,
        added_kv_proj_dim=config.width if config.has_image else None,
    )


def without_sound(
    config: DiTConfig,
    condition: Float[Array, "b f h w mask_and_c"],
    text: Float[Array, "b text text_width"],
    image: Float[Array, "b image image_width"],
) -> Conditioning:
    """What our transformer is told where diffusers' hears nothing."""
    batch, frames, height, width, _ = condition.shape
    return Conditioning(
        text_tokens=text,
        image_tokens=image,
        condition=condition,
        audio_tokens=jnp.zeros((batch, frames, config.audio_slots, config.audio_width)),
        audio_keep=jnp.zeros((batch, frames)),
        face_mask=jnp.ones((batch, height, width)),
        mode=jnp.zeros((batch, frames), jnp.int32),
    )


def _compared(
    name: str, ours: Callable, model: nnx.Module, theirs: Callable, inputs: tuple, repeats: int, blocks: int
) -> Figure:
    """Times ours(model, *inputs), compiled, against theirs(*inputs as channels-first tensors)."""
    torch, _ = reference()
    arrays = tuple(jnp.asarray(value) for value in inputs)
    compiled = jax.jit(ours).lower(model, *arrays).compile()
    first = lambda value: value.transpose(0, 4, 1, 2, 3) if value.ndim == 5 else value
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(first(value))) for value in inputs)
    with torch.inference_mode():
        run = lambda: jax.block_until_ready(compiled(model, *arrays))
        taken = in_turn((run, lambda: theirs(*tensors)), blocks=blocks, repeats=repeats, pause=_PAUSE)
        result = np.asarray(run(), np.float64)
        expected = theirs(*tensors).permute(0, 2, 3, 4, 1).numpy()
    error = np.linalg.norm(result - expected) / np.linalg.norm(expected)
    return Figure(name, inputs[0].shape, *map(statistics.median, taken), error=float(error))


def _vae_figures(size: Size, rng: np.random.Generator, repeats: int, blocks: int) -> list[Figure]:
    _, diffusers = reference()
    config = size.vae()
    theirs = diffusers.AutoencoderKLWan(base_dim=config.base_dim).eval()
    ours = filled(VAE, config, theirs, wan_vae_names(config))
    frames, rows, columns = size.latents
    latents = rng.normal(size=(1, *size.latents, config.z_dim)).astype(np.float32)
    stride = config.spatial_stride
    video = rng.uniform(-1, 1, (1, 4 * frames - 3, stride * rows, stride * columns, 3)).astype(np.float32)
    decode = lambda vae, raw: jnp.clip(vae.decode(vae.normalise(raw)), -1, 1)
    encode = lambda vae, video: vae.encode_moments(video)[0]
    return [
        _compared("VAE decode", decode, ours, lambda z: theirs.decode(z).sample, (latents,), repeats, blocks),
        _compared(
            "VAE encode", encode, ours, lambda x: theirs.encode(x).latent_dist.mean, (video,), repeats, blocks
        ),
    ]


def _dit_figure(size: Size, rng: np.random.Generator, repeats: int, blocks: int) -> Figure:
    config = size.dit()
    theirs = transformer(config).eval()
    ours = filled(DiT, config, theirs, DIFFUSERS)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    inputs = (
        draw(1, *size.latents, config.in_channels),
        np.full(1, 0.7, np.float32),
        draw(1, config.text_length, config.text_width),
        draw(1, config.image_length, config.image_width),
    )

    def forward(model, x, sigma, text, image):
        conditioning = without_sound(config, x[..., config.out_channels :], text, image)
        return model(x[..., : config.out_channels], sigma, conditioning, pattern=Bidirectional())

    def run(x, sigma, text, image):
        return theirs(
            hidden_states=x,
            timestep=1000.0 * sigma,
            encoder_hidden_states=text,
            encoder_hidden_states_image=image,
            return_dict=False,
        )[0]

    return _compared("DiT forward", forward, ours, run, inputs, repeats, blocks)


def measure_speed(size: str = "small", repeats: int = 3, blocks: int = 3, seed: int = 0) -> list[Figure]:
    """Times VAE decode and encode and the transformer's forward pass, float32, batch 1.

    Args:
        size: a name of SIZES.
        repeats: calls in a block.
        blocks: blocks of either side, in turn.

    Raises:
        InputError: PyTorch or diffusers is not installed.
    """
    if repeats < 1 or blocks < 1:
        raise InputError(f"--repeats {repeats} --blocks {blocks}: give at least 1 of each")
    torch, _ = reference()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(seed)
    rng, what = np.random.default_rng(seed), SIZES[size]
    return [*_vae_figures(what, rng, repeats, blocks), _dit_figure(what, rng, repeats, blocks)]


def table(figures: list[Figure]) -> str:
    """The figures as a Markdown table, with the machine's cores above it."""
    lines = [
        f"float32, batch 1, {len(os.sched_getaffinity(0))} cores, JAX {jax.__version__}",
        "",
        "| function | input | ours, ms | PyTorch, ms | ours is faster by | relative error |",
        "|---|---|---|---|---|---|",
    ]
    for figure in figures:
        shape = "×".join(map(str, figure.shape))
        lines.append(
            f"| {figure.name} | {shape} | {1e3 * figure.ours:.1f} | {1e3 * figure.theirs:.1f} "
            f"| {figure.ratio:.2f} | {figure.error:.1e} |"
        )
    return "\n".join(lines)


def run(arguments: Arguments) -> str:
    """The table of all three functions."""
    return table(measure_speed(arguments.size, arguments.repeats, arguments.blocks, arguments.seed))
