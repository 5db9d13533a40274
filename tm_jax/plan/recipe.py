"""How a preset is trained on a topology: its mesh and batch there, and how often each program runs."""

import dataclasses
import math
from typing import Any

from tm_jax.errors import InputError
from tm_jax.plan.hardware import Topology
from tm_jax.plan.roofline import Roofline, roofline
from tm_jax.sharding import MeshConfig
from tm_jax.training.passes import ClipShape, Passes, distillation_passes, teacher_passes


def mesh_config(text: str) -> MeshConfig:
    """A mesh from ``data=1,fsdp=-1,context=2,tensor=2``; axes left out are 1, fsdp takes what is left.

    Raises:
      InputError: another form, or an unknown axis.
    """
    known = [field.name for field in dataclasses.fields(MeshConfig)]
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in known or not size.lstrip("-").isdecimal():
            raise InputError(f"--mesh {text}: give sizes of {', '.join(known)}, such as fsdp=32,tensor=2.")
        sizes[name] = int(size)
    try:
        return MeshConfig(**sizes)
    except ValueError as error:
        raise InputError(f"--mesh {text}: {error}.") from error


def sizes_on(config: MeshConfig, where: Topology) -> dict[str, int]:
    """Sizes of all mesh axes on a topology.

    Raises:
      InputError: they do not fill it.
    """
    names = [field.name for field in dataclasses.fields(MeshConfig)]
    try:
        return dict(zip(names, config.shape(where.devices), strict=True))
    except ValueError as error:
        raise InputError(f"{error}: change --mesh.") from error


def placed_on(experiment: Any, where: Topology, mesh: MeshConfig | None = None, clips: int = 1) -> Any:
    """The experiment as it is trained on a topology.

    The batch stays the preset's, made in as many parts as leave ``clips`` of it on a device at a time; it is
    rounded up where the devices don't share it evenly.
    """
    loop = experiment.loop
    mesh = loop.mesh if mesh is None else mesh
    sizes = sizes_on(mesh, where)
    shares = sizes["data"] * sizes["fsdp"] * clips
    parts = max(1, -(-loop.batch_size // shares))
    loop = dataclasses.replace(loop, mesh=mesh, batch_size=parts * shares, accumulate=parts)
    return dataclasses.replace(experiment, loop=loop)


def passes_of(experiment: Any) -> dict[str, Passes]:
    """What every program of a training evaluates, for one clip."""
    model, clip = experiment.model, ClipShape(experiment.clip.frames, *experiment.videos.grid)
    if not hasattr(experiment, "rollout"):
        return teacher_passes(model, clip)
    return distillation_passes(
        model,
        clip,
        experiment.rollout,
        guidance=experiment.loss.guidance,
        sampler=experiment.pairs.sampler,
        long_chunks=experiment.long_chunks,
    )


def clips_of(experiment: Any, batch: int) -> dict[str, float]:
    """Clips that go through each program in the whole training, whose batches hold ``batch``; fractions are
    expectations of what is drawn."""
    steps = experiment.loop.steps
    if not hasattr(experiment, "rollout"):
        return {"update": float(steps * batch)}
    last = experiment.rollout.steps - 1
    critics = steps - experiment.warmup
    students = max(critics - experiment.critic_lead, 0) / experiment.critic_per_student
    long = 1 / experiment.long_every if experiment.long_every else 0.0
    first = experiment.exit_first if last else 0.0
    mixed = students + critics * experiment.critic_mixed
    finished = critics * (not experiment.critic_mixed)
    own = {f"own_{last}": finished + mixed * (1 - long) * (1 - first) * (1 - experiment.real_start)}
    if last:
        own["own_0"] = mixed * (1 - long) * first
    runs = {
        "warmup": float(experiment.warmup),
        "critic": float(critics),
        **own,
        f"real_{last}": mixed * (1 - long) * (1 - first) * experiment.real_start,
        f"long_{last}": mixed * long * (1 - first),
        **({"long_0": mixed * long * first} if last else {}),
        "gap": students,
        "student": students * (1 - long),
        "student_long": students * long,
    }
    found = {name: batch * count for name, count in runs.items() if count}
    return {"pairs": float(experiment.pairs.count)} | found


def rooflines(experiment: Any, where: Topology) -> dict[str, Roofline]:
    """The time of every program on the topology that the experiment was placed on."""
    loop, model = experiment.loop, experiment.model
    rows, columns = experiment.videos.grid
    tokens = rows // model.patch[1] * (columns // model.patch[2])
    sizes = sizes_on(loop.mesh, where)
    shares = sizes["data"] * sizes["fsdp"]
    found = {}
    for name, passes in passes_of(experiment).items():
        batch, parts = loop.batch_size, loop.accumulate
        if name == "pairs":
            batch, parts = -(-experiment.pairs.batch // shares) * shares, 1
        found[name] = roofline(
            passes,
            model,
            batch=batch,
            tokens_per_frame=tokens,
            mesh=sizes,
            where=where,
            parts=parts,
            remat=model.remat,
        )
    return found


@dataclasses.dataclass(frozen=True)
class Hours:
    """Time of a whole training."""

    wall: float
    """Hours."""
    chips: float
    """Chip-hours."""
    clips_a_second: float
    """Clips of the main loop a second: updates of the teacher, or of the critic with the student's share."""


def hours(experiment: Any, where: Topology, times: dict[str, Roofline], batch: int) -> Hours:
    """How long a placed experiment takes to see as many clips as its preset does, by the roofline.

    Args:
      batch: clips of a batch of the preset, before it was placed.
    """
    seconds, main = 0.0, 0.0
    for name, clips in clips_of(experiment, batch).items():
        each = float(experiment.loop.batch_size)
        if name == "pairs":
            # A batch of pairs takes as long however few of its rows are wanted.
            each = float(experiment.pairs.batch)
            clips = math.ceil(clips / each) * each
        taken = clips / each * times[name].step
        seconds += taken
        main += 0.0 if name in ("pairs", "warmup") else taken
    looped = experiment.loop.steps - getattr(experiment, "warmup", 0)
    return Hours(seconds / 3600, seconds / 3600 * where.chips, looped * batch / main)
