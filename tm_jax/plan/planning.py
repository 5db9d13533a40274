"""One preset on one topology: placed there, timed by the roofline, its programs compiled one by one."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tm_jax.errors import InputError
from tm_jax.plan.compiling import Compiled, compile_program
from tm_jax.plan.devices import check_installed
from tm_jax.plan.hardware import Topology
from tm_jax.plan.recipe import clips_of, hours, placed_on, rooflines, sizes_on
from tm_jax.plan.report import Plan, make_plan
from tm_jax.plan.streaming import frames_a_second, stream_times, where_streamed
from tm_jax.sharding import MeshConfig


def plan(
    name: str,
    experiment: Any,
    where: Topology,
    mesh: MeshConfig | None = None,
    *,
    clips: int = 1,
    only: Sequence[str] | None = None,
    compiled: bool = True,
    stop: bool = False,
    batch: int | None = None,
    said: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Plans a preset.

    Args:
      mesh: the preset's own if not given.
      clips: on a device at a time.
      only: names of the programs to compile; all of the training's if not given.
      compiled: False leaves memory out.
      stop: after the first program that does not fit.
      batch: by which the length of the whole training is counted; the experiment's if not given.
      said: is told what is being compiled.

    Raises:
      InputError: the mesh does not fit, a program does not exist, or the compiler is not installed.
    """
    placed = placed_on(experiment, where, mesh, clips)
    times = rooflines(placed, where)
    run = {key: one for key, one in times.items() if key in clips_of(placed, placed.loop.batch_size)}
    if unknown := [key for key in only or () if key not in run]:
        raise InputError(f"{name} has no program called {unknown[0]}: it has {', '.join(run)}.")
    memory: dict[str, Compiled] = {}
    if compiled:
        check_installed(where)
        for program in only or run:
            memory[program] = compile_program(placed, where.name, program, said=said)
            if stop and not memory[program].fits:
                break
    sizes = sizes_on(placed.loop.mesh, where)
    return make_plan(
        name,
        placed,
        where,
        sizes,
        memory,
        run,
        hours=hours(placed, where, times, batch or experiment.loop.batch_size),
    )


def plan_stream(
    name: str,
    experiment: Any,
    kind: Topology,
    *,
    only: Sequence[str] | None = None,
    compiled: bool = True,
    said: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Plans the streaming of a preset's student on the fewest devices of a topology's kind.

    Args:
      only: names of the programs to compile; both if not given.
    """
    where, mesh = where_streamed(experiment, kind)
    loop = dataclasses.replace(experiment.loop, mesh=mesh, batch_size=1, accumulate=1)
    placed, sizes = dataclasses.replace(experiment, loop=loop), sizes_on(mesh, where)
    times = stream_times(placed, where, sizes)
    memory = {}
    if compiled:
        check_installed(where)
        memory = {
            program: compile_program(placed, where.name, program, said=said) for program in only or times
        }
    fps = frames_a_second(placed, times)
    return make_plan(f"{name}, streaming", placed, where, sizes, memory, times, fps=fps)
