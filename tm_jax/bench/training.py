"""Our stage-1 step against PyTorch's eager one (diffusers) in one run: loss and all gradients, as a ratio.

One clip, one noise level, float32, no sound; both hold the same random weights and get the same noise, so
that the gradients are compared too.  PyTorch keeps all activations, ours what --remat says.  The optimizer is
left out: it is a few passes over the parameters on either side.  ``taskset -c 0,1`` compares on two cores.
"""

import dataclasses
import os
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from tm_jax.bench.pytorch import filled, reference, transformer, without_sound
from tm_jax.bench.timing import in_turn
from tm_jax.diffusion.flow import add_noise, velocity
from tm_jax.errors import InputError
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.nn.masks import Bidirectional
from tm_jax.pretrained.names import dump
from tm_jax.pretrained.wan_dit import DIFFUSERS

SIZES = {
    "tiny": (24, 2, 1, (2, 2, 2)),
    "small": (512, 8, 4, (6, 16, 16)),
    "medium": (1024, 8, 6, (6, 24, 24)),
}
"""Width, heads, layers and latents (frames, rows, columns)."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare a training step of the transformer with PyTorch's on this machine."""

    size: Literal["tiny", "small", "medium"] = "small"
    """tiny shows that the command works, small takes a minute or two on two cores, medium some ten."""
    remat: Literal["none", "products", "full"] = "products"
    """What our blocks keep for the backward pass."""
    blocks: int = 5
    """Steps of either side, in turn."""
    seed: int = 0
    """Seed of weights and inputs."""


def _ours(model: DiT, arrays: dict[str, jax.Array]) -> tuple[jax.Array, DiT]:
    def loss(model):
        config = model.config
        conditioning = without_sound(config, arrays["condition"], arrays["text"], arrays["image"])
        noisy = add_noise(arrays["clean"], arrays["noise"], arrays["sigma"])
        predicted = model(noisy, arrays["sigma"], conditioning, pattern=Bidirectional())
        return jnp.mean(jnp.square(predicted - velocity(arrays["clean"], arrays["noise"])))

    return jax.value_and_grad(loss)(model)


def measure(arguments: Arguments) -> dict[str, float]:
    """Least seconds of our step and of PyTorch's, and how far losses and gradients lie apart.

    Raises:
        InputError: PyTorch or diffusers is not installed.
    """
    if arguments.blocks < 1:
        raise InputError(f"--blocks {arguments.blocks}: give at least 1")
    torch, _ = reference()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(arguments.seed)
    width, heads, layers, latents = SIZES[arguments.size]
    config = DiTConfig(
        width=width,
        ffn=width * 27 // 10,
        heads=heads,
        layers=layers,
        text_width=width,
        audio_dim=0,
        dtype="float32",
        remat=arguments.remat,
    )
    theirs = transformer(config).train()
    ours = filled(DiT, config, theirs, DIFFUSERS)
    rng = np.random.default_rng(arguments.seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    arrays = {
        "clean": draw(1, *latents, config.out_channels),
        "noise": draw(1, *latents, config.out_channels),
        "condition": draw(1, *latents, config.in_channels - config.out_channels),
        "sigma": np.full(1, 0.7, np.float32),
        "text": draw(1, config.text_length, config.text_width),
        "image": draw(1, config.image_length, config.image_width),
    }
    given = jax.tree.map(jnp.asarray, arrays)
    compiled = jax.jit(_ours).lower(ours, given).compile()
    first = lambda x: torch.from_numpy(np.ascontiguousarray(x.transpose(0, 4, 1, 2, 3)))
    tensors = {name: first(x) if x.ndim == 5 else torch.from_numpy(x) for name, x in arrays.items()}

    def their_step():
        theirs.zero_grad(set_to_none=True)
        sigma, clean, noise = tensors["sigma"], tensors["clean"], tensors["noise"]
        noisy = torch.cat([(1 - sigma) * clean + sigma * noise, tensors["condition"]], dim=1)
        predicted = theirs(
            hidden_states=noisy,
            timestep=1000.0 * sigma,
            encoder_hidden_states=tensors["text"],
            encoder_hidden_states_image=tensors["image"],
            return_dict=False,
        )[0]
        loss = torch.nn.functional.mse_loss(predicted, noise - clean)
        loss.backward()
        return loss.detach()

    our_step = lambda: jax.block_until_ready(compiled(ours, given))
    mine, other = map(min, in_turn((our_step, their_step), blocks=arguments.blocks, pause=0.5))
    (loss, gradients), their_loss = our_step(), their_step()
    found = dump(gradients, DIFFUSERS)
    pairs = [(found[name], parameter.grad.numpy()) for name, parameter in theirs.named_parameters()]
    apart = sum(float(np.square(a - b).sum()) for a, b in pairs) / sum(
        float(np.square(b).sum()) for _, b in pairs
    )
    return {
        "ours": mine,
        "theirs": other,
        "loss": abs(float(loss) - float(their_loss)) / float(their_loss),
        "gradient": apart**0.5,
    }


def run(arguments: Arguments) -> str:
    """The two times, their ratio and the errors, as text."""
    width, heads, layers, latents = SIZES[arguments.size]
    found = measure(arguments)
    shape = "×".join(map(str, latents))
    return (
        f"forward and backward, float32, width {width}, {heads} heads, {layers} layers, latents {shape}, "
        f"{len(os.sched_getaffinity(0))} cores, remat {arguments.remat}\n"
        f"ours {1e3 * found['ours']:.0f} ms, PyTorch {1e3 * found['theirs']:.0f} ms: "
        f"{found['theirs'] / found['ours']:.2f} times as fast\n"
        f"relative error of the loss {found['loss']:.1e}, of all gradients {found['gradient']:.1e}"
    )
