"""Clips drawn ahead of whoever takes them: by one thread, or by processes that speak and draw.

A worker draws on the CPU whatever the accelerator, with one thread, and is told nothing but (world, index).
"""

import collections
import concurrent.futures
import multiprocessing
import os
from collections.abc import Iterator, Sequence

from tm_jax.data.puppets.world import Clip, PuppetWorld


def _begin() -> None:
    """Before a worker's JAX looks for devices: it is to find the CPU, and use one core of it."""
    import jax

    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    jax.config.update("jax_platforms", "cpu")


def drawn_ahead(
    world: PuppetWorld, indices: Sequence[int], seconds: float, *, workers: int = 0
) -> Iterator[Clip]:
    """The clips of these indices in their order, whoever draws them.

    Args:
        workers: processes that draw; 0 is one thread of this process, one clip ahead.
    """
    if workers:
        # Forking a process that has an accelerator's threads would hang.
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_begin)
    else:
        pool = concurrent.futures.ThreadPoolExecutor(1)
    with pool:
        pending: collections.deque[concurrent.futures.Future[Clip]] = collections.deque()
        rest = iter(indices)
        try:
            while True:
                while len(pending) < max(1, 2 * workers) + 1:
                    index = next(rest, None)
                    if index is None:
                        break
                    pending.append(pool.submit(world.clip, index, seconds))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
