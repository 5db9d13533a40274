"""Accelerators that a plan can be made for: rates of a chip, and how the chips of a topology are joined.

Sources, read in November 2026:
    TPU      cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}: "Peak compute per chip (bf16)", "HBM bandwidth
             per chip", "Bidirectional ICI bandwidth per chip" over twice the ports, for v4 the all-reduce
             bandwidth of a pod over its chips and ports; data-centre network per chip
    H100     NVIDIA's H100 SXM data sheet: bf16 without sparsity, HBM3, NVLink 900 GB/s both ways; one
             400 Gb/s network adapter a GPU, as in NVIDIA's DGX H100

The memory is what a program may use of it: for TPUs the limit that the compiler enforces, for the H100 the
80 GB of its name, of which CUDA and NCCL take their part.
"""

import dataclasses
import difflib
import math
import re

from tm_jax.errors import InputError

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of accelerator.  Rates are of one *device*, which is what JAX calls one."""

    name: str
    hbm: float
    """Bytes that a program may use."""
    flops: float
    """Peak operations a second in bfloat16."""
    bandwidth: float
    """Bytes a second of HBM."""
    link: float
    """Bytes a second, one way, of one link between neighbours; of all NVLinks together."""
    network: float
    """Bytes a second, one way, between slices or nodes."""
    dimensions: int = 3
    """Of the torus; 0 is a switch between the GPUs of a node."""
    wraps: int = 4
    """A dimension whose size is a multiple of it is a ring; others are lines."""
    devices: int = 1
    """Devices of a chip."""


GiB = 2**30
CHIPS = {
    "v4": Chip("v4", 30.75 * GiB, 275e12, 1.2e12, 45e9, 6.25e9),
    "v5e": Chip("v5e", 15.75 * GiB, 197e12, 0.819e12, 50e9, 3.1e9, dimensions=2, wraps=16),
    "v5p": Chip("v5p", 95.74 * GiB, 459e12, 2.765e12, 100e9, 6.25e9),
    "v6e": Chip("v6e", 31.25 * GiB, 918e12, 1.638e12, 100e9, 12.5e9, dimensions=2, wraps=16),
    # Two devices a chip, each with half of everything.
    "tpu7x": Chip("tpu7x", 94.75 * GiB, 1153.5e12, 3.69e12, 50e9, 6.25e9, devices=2),
    "h100": Chip("h100", 80 * GB, 989.4e12, 3.352e12, 450e9, 50e9, dimensions=0),
}

_TPU = re.compile(r"(?P<chip>\w+):(?P<shape>\d+(x\d+)*)(\*(?P<slices>\d+))?")
_GPU = re.compile(r"gpu:(?P<chip>\w+):(?P<nodes>\d+)x(?P<each>\d+)")
FORMS = "v5p:4x4x4, v5e:16x16*2 for two slices, or gpu:h100:8x8 for 8 nodes of 8"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Accelerators and how they are joined."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    """Sizes of the torus; nodes and GPUs of a node."""
    slices: int = 1

    @property
    def gpu(self) -> bool:
        """Whether these are GPUs."""
        return self.chip.dimensions == 0

    @property
    def chips(self) -> int:
        """Chips in all: what is rented."""
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """Devices in all, as JAX counts them."""
        return self.chips * self.chip.devices


def topology(name: str) -> Topology:
    """The topology of a name such as v5p:4x4x4, v5e:16x16*2 or gpu:h100:8x8.

    Raises:
      InputError: no such chip, or a name of another form.
    """
    if found := _GPU.fullmatch(name):
        chip = _chip(found["chip"], gpu=True)
        return Topology(name, chip, (int(found["nodes"]), int(found["each"])))
    if not (found := _TPU.fullmatch(name)):
        raise InputError(f"--topology {name}: give a topology such as {FORMS}.")
    chip = _chip(found["chip"], gpu=False)
    shape = tuple(map(int, found["shape"].split("x")))
    if len(shape) != chip.dimensions or min(shape) < 1:
        example = "x".join(["4"] * chip.dimensions)
        raise InputError(
            f"--topology {name}: a {chip.name} slice has {chip.dimensions} sizes, e.g. {chip.name}:{example}."
        )
    return Topology(name, chip, shape, int(found["slices"] or 1))


def _chip(name: str, gpu: bool) -> Chip:
    known = [chip for chip, data in CHIPS.items() if (data.dimensions == 0) == gpu]
    if name in known:
        return CHIPS[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"There is no figure for a chip called {name}: {hint}Known are {', '.join(known)}.")


@dataclasses.dataclass(frozen=True)
class AxisLinks:
    """How fast the devices along one mesh axis talk."""

    size: int
    """Devices along the axis."""
    bandwidth: float
    """Bytes a second that reach one device when all gather from all."""
    ring: int
    """The longest way round, in devices: what an all-to-all suffers from."""


def axis_links(where: Topology, mesh: dict[str, int]) -> dict[str, AxisLinks]:
    """The links of each mesh axis, in the order in which the axes are laid on the machine.

    The last axis gets the nearest neighbours.  On a torus an axis uses both directions of every dimension
    that it spans, one direction where the dimension isn't closed to a ring.  Axes that cross slices or nodes
    are held up by the network there.
    """
    return _gpu_links(where, mesh) if where.gpu else _torus_links(where, mesh)


def _torus_links(where: Topology, mesh: dict[str, int]) -> dict[str, AxisLinks]:
    chip = where.chip
    left = list(where.shape)
    found = {}
    for name in reversed(mesh):
        size, slices = mesh[name], 1
        if name == "data":
            slices = math.gcd(size, where.slices)
        need, rate, ring = size // slices, 0.0, 1
        # Devices of one chip talk within it.
        inside = math.gcd(need, chip.devices) if name == next(reversed(mesh)) else 1
        need //= inside
        while need > 1:
            # A whole dimension where one fits, else a part of the largest.
            fitting = [i for i, extent in enumerate(left) if extent > 1 and need % extent == 0]
            which = max(fitting or range(len(left)), key=lambda i: left[i])
            taken = math.gcd(need, left[which])
            if taken == 1:
                break
            whole = taken == where.shape[which] and taken % chip.wraps == 0
            rate += chip.link * (2 if whole else 1)
            ring = max(ring, taken)
            left[which] //= taken
            need //= taken
        rate = rate or chip.link * 6
        found[name] = AxisLinks(size, min(rate, chip.network) if slices > 1 else rate, ring)
    return {name: found[name] for name in mesh}


def _gpu_links(where: Topology, mesh: dict[str, int]) -> dict[str, AxisLinks]:
    chip, inner, found = where.chip, where.shape[1], {}
    for name in reversed(mesh):
        size = mesh[name]
        near = math.gcd(size, inner)
        inner //= near
        # All adapters of a node carry what crosses to the next.
        rate = chip.link if size <= near else min(chip.link, chip.network * near)
        found[name] = AxisLinks(size, rate, 1)
    return {name: found[name] for name in mesh}
