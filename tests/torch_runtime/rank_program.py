"""What every rank runs in the test of several ranks: python rank_program.py EXPORT INPUTS OUT [dying rank].

No JAX is imported: the last rank streams a sound and writes what came, the others obey.
"""

import os
import signal
import sys

import numpy as np

from tm_jax.errors import InputError
from tm_jax.torch_runtime.ranks import serve_ranks


def main(export: str, given: str, out: str, dying: str = "") -> int:
    try:
        if dying and os.environ["RANK"] == dying:
            signal.signal(signal.SIGALRM, lambda *_: os._exit(9))
            signal.setitimer(signal.ITIMER_REAL, 2.0)
        engine = serve_ranks(export)
        if engine is None:
            return 0
        with np.load(given) as arrays:
            picture, sound = arrays["picture"], arrays["sound"]
        frames, rounds = [], 10_000 if dying else 1
        for _ in range(rounds):
            frames = [chunk.frames for chunk in engine.stream(picture, [sound], seed=3)]
        np.save(out, np.concatenate(frames))
        engine.backend.close()
    except InputError as error:
        print(f"rank {os.environ['RANK']}: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
