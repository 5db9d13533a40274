"""A plan as a table for people and as JSON for programs."""

import dataclasses
from typing import Any

from tm_jax.config import to_json
from tm_jax.plan.compiling import Compiled
from tm_jax.plan.hardware import Topology
from tm_jax.plan.recipe import Hours
from tm_jax.plan.roofline import KERNELS, Roofline
from tm_jax.rates import FRAMES_PER_SECOND

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training of a preset on one topology, or a stream of its student."""

    preset: str
    topology: str
    chips: int
    limit: float
    """Bytes of HBM that a device's programs may use."""
    mesh: dict[str, int]
    batch: int
    parts: int
    remat: Any
    memory: dict[str, Compiled]
    """By program; empty where nothing was compiled."""
    time: dict[str, Roofline]
    hours: Hours | None = None
    """None of a stream."""
    fps: float | None = None
    """Video frames a second of a stream."""

    @property
    def fits(self) -> bool | None:
        """Whether every program fits; None where none was compiled."""
        return all(one.fits for one in self.memory.values()) if self.memory else None

    @property
    def peak(self) -> float:
        """The greatest of the programs' peaks."""
        return max((one.peak for one in self.memory.values()), default=0.0)

    def json(self) -> dict:
        """Everything, derived figures included."""
        times = {
            name: to_json(one) | {"step": one.step, "mfu": one.mfu, "losses": one.losses()}
            for name, one in self.time.items()
        }
        return to_json(dataclasses.replace(self, time={})) | {
            "time": times,
            "fits": self.fits,
            "peak": self.peak,
        }


def make_plan(
    preset: str,
    experiment: Any,
    where: Topology,
    sizes: dict[str, int],
    memory: dict[str, Compiled],
    time: dict[str, Roofline],
    *,
    hours: Hours | None = None,
    fps: float | None = None,
) -> Plan:
    """A plan of an experiment that was placed on a topology."""
    loop = experiment.loop
    return Plan(
        preset,
        where.name,
        where.chips,
        where.chip.hbm,
        sizes,
        loop.batch_size,
        loop.accumulate,
        experiment.model.remat,
        memory,
        time,
        hours,
        fps,
    )


def table(plan: Plan) -> str:
    """The plan for people."""
    mesh = " × ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    parts = f" in {plan.parts} parts" if plan.parts > 1 else ""
    batch = f"batch {plan.batch} clips{parts}, remat {plan.remat}" if plan.hours else "one stream"
    lines = [f"{plan.preset} on {plan.topology}: {plan.chips} chips, {mesh}; {batch}"]
    lines += ["", *_memory(plan)] if plan.memory else []
    lines += ["", *_time(plan), "", *_summary(plan)]
    return "\n".join(lines)


def _columns(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, *rows]
    widths = [max(len(row[column]) for row in lines) for column in range(len(head))]

    def line(row: list[str]) -> str:
        first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        return "  ".join([first.strip().ljust(widths[0]), *rest])

    return [line(row) for row in lines]


def _memory(plan: Plan) -> list[str]:
    known = next((one.resident for one in plan.memory.values() if one.resident), {})
    kept = ", ".join(f"{kind} {size / GB:.1f}" for kind, size in known.items())
    rows = [
        [
            name,
            f"{one.inputs / GB:.1f}",
            f"{one.temporary / GB:.1f}",
            f"{one.peak / GB:.1f}",
            _verdict(one, plan.limit),
            f"{one.seconds:.0f} s",
            f"{one.processor:.0f} s",
            f"{one.host / GB:.1f}",
        ]
        for name, one in plan.memory.items()
    ]
    head = [
        "program",
        "inputs",
        "temporary",
        "peak",
        f"of {plan.limit / GB:.1f}",
        "compiled in",
        "processor",
        "host GB",
    ]
    return [
        f"HBM of a device in GB; always there: {kept} = {sum(known.values()) / GB:.1f}",
        *_columns(head, rows),
    ]


def _verdict(one: Compiled, limit: float) -> str:
    if one.error:
        return f"fails: {one.error}"
    left = (limit - one.peak) / GB
    return f"fits, {left:.1f} free" if one.fits else f"{-left:.1f} too much"


def _time(plan: Plan) -> list[str]:
    rows = []
    for name, one in plan.time.items():
        loss, share = next(iter(one.losses().items()))
        traffic = one.traffic
        rows.append(
            [
                name,
                f"{one.flops / 1e15:.3g}",
                f"{one.executed / 1e15:.3g}",
                *(f"{getattr(traffic, axis) / GB:.1f}" for axis in plan.mesh),
                f"{one.step:.3g}",
                f"{100 * one.mfu:.0f} %",
                f"{loss} {100 * share:.0f} %",
            ]
        )
    head = ["program", "PFLOP", "executed", *(f"{axis} GB" for axis in plan.mesh), "s", "MFU", "largest loss"]
    return [
        f"Time by the roofline, kernels at {100 * KERNELS:.0f} % of the peak; traffic into one device a run",
        *_columns(head, rows),
    ]


def _summary(plan: Plan) -> list[str]:
    lines = []
    if plan.memory:
        name, worst = max(plan.memory.items(), key=lambda item: item[1].peak)
        verdict = "everything fits" if plan.fits else "does not fit"
        lines.append(f"{verdict}: at most {worst.peak / GB:.1f} of {plan.limit / GB:.1f} GB, in {name}")
    if hours := plan.hours:
        lines.append(
            f"{hours.clips_a_second:.2f} clips/s; the whole training {hours.wall:,.0f} hours, "
            f"{hours.chips:,.0f} chip-hours"
        )
    if plan.fps:
        lines.append(
            f"{plan.fps:.1f} frames/s, {plan.fps / FRAMES_PER_SECOND:.2f}× real time, "
            "while the VAE decodes on one device more"
        )
    return lines


def overview(plans: list[Plan]) -> str:
    """Several plans beside each other, a line each."""
    rows = []
    for plan in plans:
        fits = {None: "not compiled", True: "fits", False: "no"}[plan.fits]
        rows.append(
            [
                f"{plan.preset} on {plan.topology}",
                ",".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1),
                f"{plan.parts}",
                f"{plan.remat}",
                f"{plan.peak / GB:.1f}" if plan.memory else "–",
                fits,
                f"{plan.hours.clips_a_second:.2f}" if plan.hours else "–",
                f"{plan.hours.chips:,.0f}" if plan.hours else "–",
            ]
        )
    head = ["plan", "mesh", "parts", "remat", "peak GB", "fits", "clips/s", "chip-hours"]
    return "\n".join(_columns(head, rows))
