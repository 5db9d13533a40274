"""Which mesh, which remat, how large a slice: candidates are sorted by sizes alone, the best are compiled.

The estimate of memory only sorts: whether something fits, the compiler says.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from tm_jax.errors import InputError
from tm_jax.plan.hardware import Topology, topology
from tm_jax.plan.planning import plan
from tm_jax.plan.recipe import hours, placed_on, rooflines, sizes_on
from tm_jax.plan.report import Plan, overview, table
from tm_jax.plan.roofline import adapters, parameters
from tm_jax.sharding import MeshConfig

Said = Callable[[str], None]

SLICES = {
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "tpu7x": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
    "gpu:h100": ("1x1", "1x2", "1x4", "1x8", "2x8", "4x8", "8x8", "16x8"),
}
"""Slices that can be rented, the smallest first; nodes × GPUs of a node."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to train a preset on a topology, judged by sizes alone."""

    experiment: Any
    mesh: MeshConfig
    where: Topology
    batch: int
    """The preset's, by which the length of a training is counted."""
    memory: float
    """Bytes that a device may need, roughly."""
    chip_hours: float


def decisive(programs: Any) -> list[str]:
    """The programs that memory is decided by, the worst first: if these fit, the others do."""
    order = ("student_long", "student", "warmup", "update", "critic", "gap", "long_1", "long_0")
    return [name for name in order if name in programs]


REMAT = ("products", "full", "offload")
"""Policies that are worth a try, from the fastest to the smallest."""


def estimate(experiment: Any, where: Topology) -> float:
    """Bytes that a device may need for the experiment as it is placed."""
    model, loop = experiment.model, experiment.loop
    sizes = sizes_on(loop.mesh, where)
    shards, tensor, context = sizes["fsdp"] * sizes["context"], sizes["tensor"], sizes["context"]
    blocks, rest = parameters(model)
    held = (blocks + rest) / (shards * tensor)
    distils, rank = hasattr(experiment, "rollout"), getattr(experiment, "lora", 0)
    trained = adapters(model, rank) / (shards * tensor) if rank else held
    # Parameters, two moments and average in float32; for a critic without average; the teacher in bfloat16.
    kept = (16 + 12 * distils) * trained + 2 * distils * held
    rows, columns = experiment.videos.grid
    tokens = experiment.clip.frames * rows // model.patch[1] * (columns // model.patch[2])
    clips = loop.batch_size / (sizes["data"] * sizes["fsdp"] * loop.accumulate)
    local = clips * tokens * 2.0 / (context * tensor)
    # Arrays of the width of a token that each layer keeps.
    saved = {"none": 60, "products": 10 + model.ffn / model.width, "full": 1, "offload": 0}[model.remat]
    activations = local * model.width * (model.layers * saved + 40)
    # The sum so far, the newest part, and the layers that are on their way to their shards.
    gradients = 4 * held * (3 if loop.accumulate > 1 or distils else 2)
    layer = 2 * 6 * blocks / (model.layers * tensor)
    return kept + activations + gradients + layer


def candidates(experiment: Any, where: Topology, batch: int) -> Iterator[Candidate]:
    """Every mesh and remat policy that divides the model."""
    model = experiment.model
    for tensor, context, remat in itertools.product((1, 2, 4, 8), (1, 2, 4, 8), REMAT):
        ways = tensor * context * where.slices
        if where.devices % ways or model.heads % (tensor * context) or model.ffn % tensor:
            continue
        mesh = MeshConfig(data=where.slices, fsdp=where.devices // ways, context=context, tensor=tensor)
        changed = dataclasses.replace(experiment, model=dataclasses.replace(model, remat=remat))
        placed = placed_on(changed, where, mesh)
        cost = hours(placed, where, rooflines(placed, where), batch).chips
        yield Candidate(changed, mesh, where, batch, estimate(placed, where), cost)


def search(
    chosen: dict[str, Any], where: Topology, *, best: int, only: list[str] | None = None, said: Said
) -> list[Plan]:
    """The best ways to train each preset on a topology, the fastest that fits first.

    Args:
      best: candidates that are compiled.
      only: names of the programs that decide; those that take the most memory if not given.
    """
    found = []
    for name, experiment in chosen.items():
        ranked = sorted(
            candidates(experiment, where, experiment.loop.batch_size), key=lambda one: one.chip_hours
        )
        likely = [one for one in ranked if one.memory <= where.chip.hbm]
        said(f"{name}: {len(ranked)} ways on {where.name}, {len(likely)} may fit; compiling the best {best}")
        plans = [_compiled(name, one, only, said) for one in (likely or ranked)[:best]]
        print(overview(plans), end="\n\n", flush=True)
        fitting = [one for one in plans if one.fits]
        found += sorted(fitting or plans, key=lambda one: one.hours.chips)[:1]
        print(table(found[-1]), end="\n\n", flush=True)
    return found


def smallest(
    chosen: dict[str, Any], kind: str, *, best: int, only: list[str] | None = None, said: Said
) -> list[Plan]:
    """For each preset, the plan on the smallest slice of a kind of chip on which it fits at all.

    There a device has one clip at a time and a batch is made in one part: it may be less than the preset's.

    Args:
      best: candidates that are compiled for each slice.
      only: names of the programs that decide; those that take the most memory if not given.

    Raises:
      InputError: there are no slices of such a kind.
    """
    if kind not in SLICES:
        raise InputError(f"--smallest {kind}: it takes one of {', '.join(SLICES)}.")
    return [_smallest(name, experiment, kind, best, only, said) for name, experiment in chosen.items()]


def _smallest(name: str, experiment: Any, kind: str, best: int, only: list[str] | None, said: Said) -> Plan:
    last: Plan | None = None
    least = dataclasses.replace(experiment, loop=dataclasses.replace(experiment.loop, batch_size=1))
    for size in SLICES[kind]:
        where = topology(f"{kind}:{size}")
        ranked = sorted(candidates(least, where, experiment.loop.batch_size), key=lambda one: one.memory)
        # The estimate is rough: only what is far beyond the memory is not tried.
        for one in [one for one in ranked if one.memory <= 1.3 * where.chip.hbm][:best]:
            last = _compiled(name, one, only, said)
            print(overview([last]).splitlines()[1], flush=True)
            if last.fits:
                print(table(last), end="\n\n", flush=True)
                return last
    if last is None:
        raise InputError(
            f"{name} is far beyond the memory of {kind}:{SLICES[kind][-1]}: choose a larger chip."
        )
    return last


def _compiled(name: str, one: Candidate, only: list[str] | None, said: Said) -> Plan:
    programs = only or decisive(rooflines(placed_on(one.experiment, one.where, one.mesh), one.where))
    return plan(
        name, one.experiment, one.where, one.mesh, only=programs, stop=True, batch=one.batch, said=said
    )
