"""Compiles one program for described devices in a process of its own, and says what memory it takes.

A process of its own, because JAX reads its environment once and compilers keep what they took; the answer is
one line of JSON.
"""

import contextlib
import dataclasses
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tm_jax.config import from_json, to_json
from tm_jax.errors import InputError
from tm_jax.plan.hardware import topology


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program; bytes are of one device."""

    program: str
    fits: bool
    peak: float
    """The most that the device holds while the program runs, the training's whole state included; where it
    does not fit, what the program asked for."""
    temporary: float
    """Activations, gathered parameters, gradients: everything but arguments and results."""
    inputs: float
    """Batches and noise."""
    resident: dict[str, float]
    """What the training keeps on the device, by kind."""
    seconds: float
    """Time to trace and compile."""
    processor: float
    """Processor time of that, of all cores together: what other work on the machine does not change."""
    host: float
    """The compiling process's greatest memory."""
    error: str = ""
    """Why there is no program, if it is not memory."""


def compile_program(
    experiment: Any,
    where: str,
    program: str,
    *,
    said: Callable[[str], None] = lambda line: None,
) -> Compiled:
    """Compiles a program of an experiment, placed on a topology, for it.

    Args:
      said: is told once a second what the process is about.

    Raises:
      InputError: there is no such program, or the mesh does not fit.
    """
    from tm_jax.plan.devices import environment

    kind = f"{type(experiment).__module__}:{type(experiment).__qualname__}"
    request = {"kind": kind, "experiment": to_json(experiment), "topology": where, "program": program}
    with subprocess.Popen(
        [sys.executable, "-m", "tm_jax.plan.compiling"],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        began = time.monotonic()
        sent: str | None = json.dumps(request)
        while True:
            try:
                answer, complaint = process.communicate(sent, timeout=1)
                break
            except subprocess.TimeoutExpired:
                sent = None
                said(f"{program}: compiling for {where}, {time.monotonic() - began:.0f} s")
            except BaseException:
                process.kill()
                raise
    lines = answer.strip().splitlines()
    found = json.loads(lines[-1]) if lines else {}
    if "refused" in found:
        raise InputError(found["refused"])
    if not found:
        last = (complaint.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        return _failed(program, last, time.monotonic() - began)
    return from_json(Compiled, found)


_USED = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm")
_UNIT = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def over(message: str) -> float | None:
    """The bytes that a program asked for, from the compiler's complaint; None where it is another one."""
    found = _USED.search(message)
    return float(found[1]) * _UNIT[found[2]] if found else None


def _compile(request: dict) -> Compiled:
    import importlib

    import jax

    from tm_jax.plan.devices import described
    from tm_jax.plan.programs import mesh_of, programs, stream_programs
    from tm_jax.plan.streaming import CHUNK, DECODE

    module, name = request["kind"].split(":")
    experiment = from_json(getattr(importlib.import_module(module), name), request["experiment"])
    where, began = topology(request["topology"]), time.monotonic()
    mesh = mesh_of(experiment, described(where))
    weighed = stream_programs if request["program"] in (CHUNK, DECODE) else programs
    found, resident = weighed(experiment, mesh)
    if request["program"] not in found:
        raise InputError(f"There is no program called {request['program']}: there are {', '.join(found)}.")
    program = found[request["program"]]
    with jax.set_mesh(mesh):
        try:
            executable = program.function.lower(*program.arguments).compile()
        except jax.errors.JaxRuntimeError as error:
            requested = over(str(error))
            if requested is None:
                raise
            peak, temporary = requested, requested - program.given
        else:
            memory = executable.memory_analysis()
            temporary = memory.temp_size_in_bytes
            results = max(memory.output_size_in_bytes - memory.alias_size_in_bytes, 0)
            # The compiler's own peak lets go of donated arguments early; what it reserves is the sum.
            peak = memory.argument_size_in_bytes + temporary + results
            print(memory, file=sys.stderr)
    peak += program.beside
    return Compiled(
        program=request["program"],
        fits=peak <= where.chip.hbm,
        peak=float(peak),
        temporary=float(temporary),
        inputs=program.inputs,
        resident=resident,
        seconds=time.monotonic() - began,
        processor=time.process_time(),
        host=1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )


def _failed(program: str, reason: str, seconds: float) -> Compiled:
    shown = " ".join(reason.split())[:300]
    return Compiled(program, False, 0.0, 0.0, 0.0, {}, seconds, 0.0, 0.0, shown)


def main() -> int:
    """Reads a request, writes an answer."""
    request = json.load(sys.stdin)
    # Libraries that print must not stand in the answer's way.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer = to_json(_compile(request))
        except InputError as error:
            answer = {"refused": str(error)}
        except Exception as error:
            answer = to_json(_failed(request["program"], f"{type(error).__name__}: {error}", 0.0))
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
