"""How long a step takes by the rates of its chips, and where the time goes: no compiler, only sizes.

compute    executed FLOPs, matrix products at a share of the peak (`KERNELS`)
memory     what lies between the products (norms, gates, RoPE, optimizer), at the bandwidth of HBM
tensor     all-reduces of activations between the devices that share a layer; the products wait for them
context    all-to-alls around self-attention; the same
fsdp       parameters gathered, gradients scattered, while the products run: only the excess counts
data       gradients summed between replicas; the same

step = compute + memory + tensor + context + max(0, fsdp + data - compute)
"""

import dataclasses
import math
from collections.abc import Mapping

from tm_jax.models.dit_config import DiTConfig
from tm_jax.plan.hardware import Topology, axis_links
from tm_jax.training.passes import Pass, executed_flops, model_flops

KERNELS = 0.7
"""Share of the peak that matrix products and fused attention reach: on one H100 this project measured 645–784
of 989 TFLOP/s for products and 630 for cuDNN's attention.  No TPU has been measured."""
BETWEEN = 40
"""Arrays of tokens × width in bfloat16 that a block reads and writes between its products, forward."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes that reach one device in a step, by mesh axis."""

    data: float
    fsdp: float
    context: float
    tensor: float


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The time of one step by its parts, in seconds."""

    compute: float
    memory: float
    tensor: float
    context: float
    fsdp: float
    data: float
    flops: float
    """Model FLOPs of the whole step."""
    executed: float
    """FLOPs with what is computed again."""
    traffic: Traffic
    hbm_bytes: float
    """Bytes that one device's HBM moves between the products and for the optimizer."""
    peak: float
    """Operations a second of all devices together."""
    kernels: float = KERNELS
    """Share of the peak that the products reach."""

    @property
    def exposed(self) -> float:
        """What fsdp and data take beyond the products that hide them."""
        return max(0.0, self.fsdp + self.data - self.compute)

    @property
    def step(self) -> float:
        """Seconds a step."""
        return self.compute + self.memory + self.tensor + self.context + self.exposed

    @property
    def mfu(self) -> float:
        """Model FLOPs over what the devices could have done in the time."""
        return self.flops / (self.step * self.peak)

    def losses(self) -> dict[str, float]:
        """Shares of the step that do not serve the model, the largest first; with MFU they sum to 1."""
        again = (self.executed - self.flops) / self.executed * self.compute
        parts = {
            "kernels below the peak": (self.compute - again) * (1 - self.kernels),
            "recomputation": again,
            "memory between products": self.memory,
            "tensor traffic": self.tensor,
            "context traffic": self.context,
            "fsdp and data traffic that nothing hides": self.exposed,
        }
        return {
            name: part / self.step for name, part in sorted(parts.items(), key=lambda item: -item[1]) if part
        }


def parameters(config: DiTConfig) -> tuple[float, float]:
    """Parameters of the blocks, and of all the rest."""
    d = config.width
    block = 6 * d * d + 2 * d * d + 2 * d * config.ffn
    block += 2 * d * d if config.has_image else 0
    block += 2 * config.audio_dim * d
    rest = math.prod(config.patch) * (config.in_channels + config.out_channels) * d + 7 * d * d
    rest += config.text_width * d + d * d + config.audio_width * config.audio_dim
    rest += config.image_width * (config.image_width + d) if config.has_image else 0
    return float(config.layers * block), float(rest)


def adapters(config: DiTConfig, rank: int) -> float:
    """Parameters of low-rank changes of the blocks' kernels (`training.lora`)."""
    d = config.width
    square = 8 + 2 * config.has_image
    edges = square * 2 * d + 2 * (d + config.ffn) + 2 * (config.audio_dim + d)
    return float(config.layers * rank * edges)


def roofline(
    passes: tuple[Pass, ...],
    model: DiTConfig,
    *,
    batch: int,
    tokens_per_frame: int,
    mesh: Mapping[str, int],
    where: Topology,
    parts: int = 1,
    remat: str,
) -> Roofline:
    """The time of a step that makes these passes of every clip.

    Args:
      batch: clips of the step, over all devices.
      parts: of the batch, one after the other: parameters are gathered for each.
      remat: name of the policy (`DiTConfig.remat`).
    """
    chip, devices = where.chip, math.prod(mesh.values())
    shards = mesh["fsdp"] * mesh["context"]
    clips = batch / (mesh["data"] * mesh["fsdp"])
    executed = batch * executed_flops(passes, remat, fused=True)
    peak = devices * chip.flops
    blocks, rest = parameters(model)
    params, trained = blocks + rest, any(one.trained for one in passes)
    local = 2.0 * model.width / mesh["context"]  # bytes of a token of a device's share

    gathers = activations = 0.0  # passes over the parameters, and units of tokens × layers
    for one in passes:
        repeat = (2 if remat in ("none", "products") else 3) if one.trained else 1
        gathers += one.times * parts * (2 if one.trained else 1)
        activations += one.times * repeat * clips * one.frames * tokens_per_frame * model.layers
    scatters = sum(one.times for one in passes if one.trained) * parts
    gathered = params / mesh["tensor"] * (1 - 1 / shards)
    traffic = Traffic(
        # Gradients, summed in float32: reduced and gathered again.
        data=2 * (1 - 1 / mesh["data"]) * 4 * params / (shards * mesh["tensor"]) if trained else 0.0,
        fsdp=gathered * (2 * gathers + 4 * scatters),
        # Queries, keys, values and what is read.
        context=(1 - 1 / mesh["context"]) * 4 * activations * local / mesh["tensor"],
        # After self-attention, cross-attention and feed-forward, each reduced and gathered.
        tensor=2 * (1 - 1 / mesh["tensor"]) * 3 * activations * local,
    )
    between = BETWEEN * activations * local / mesh["tensor"]
    # Parameters, two moments, average: read and written in float32; the gradient read.
    optimizer = 36.0 * params / (shards * mesh["tensor"]) if trained else 0.0
    hbm = between + optimizer + 2.0 * gathers * params / mesh["tensor"]
    links = axis_links(where, dict(mesh))
    seconds = {name: getattr(traffic, name) / links[name].bandwidth for name in mesh}
    if links["context"].ring > 4:
        # On a ring all-to-all goes a quarter of the way round; up to four devices that is nearest neighbours.
        seconds["context"] *= links["context"].ring / 4
    return Roofline(
        compute=executed / (peak * KERNELS),
        memory=hbm / chip.bandwidth,
        flops=batch * model_flops(passes),
        executed=executed,
        traffic=traffic,
        hbm_bytes=hbm,
        peak=peak,
        **seconds,
    )
