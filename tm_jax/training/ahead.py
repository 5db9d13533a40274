"""Every program of a training compiled at once, in threads, while data are drawn and models trained.

Compiling is most of a small model's time on an accelerator, one program after another.  A program that is
compiled here is not compiled again by the training: JAX keeps what belongs to the same function, shapes and
shardings.
"""

import concurrent.futures
from typing import Any

import jax

from tm_jax.sharding import AnyMesh
from tm_jax.training.abstract import Steps


def compile_ahead(
    pool: concurrent.futures.Executor, mesh: AnyMesh, steps: Steps
) -> list[concurrent.futures.Future]:
    """Starts to compile each program of a phase for the mesh; the futures say when, or why not."""

    def compiled(program: Any, arguments: tuple) -> None:
        with jax.set_mesh(mesh):
            program.lower(*arguments).compile()

    return [pool.submit(compiled, *step) for step in steps.values()]
