"""Benchmarks: python -m tm_jax.bench NAME [--flag value ...]

Each prints a ratio against something that ran beside it, in the same process and on the same machine.
"""

import importlib
import sys
import warnings

from tm_jax.command import run
from tm_jax.flags import Parser, parse

BENCHMARKS = {
    "cache": "the causal step with its KV cache against the masked window without one",
    "pytorch": "our VAE and DiT against PyTorch's (diffusers), as a ratio",
    "churn": "calls that are opened and dropped in every way, and what they leave behind",
    "live": "a call from a headless browser: delays, skew, frame rate, stalls",
    "engines": "a chunk of the same student by JAX's engine and by PyTorch's, in turn",
    "serving": "the PyTorch engine: stages, rates, delays and memory, on an export or on random weights",
    "precisions": "exports of one student in several precisions: lip-sync, identity and drift",
    "soak": "one stream of many chunks with either engine: memory, threads and times at its tenths",
    "ranks": "several ranks that denoise together, by torchrun, against one process",
    "stages": "the PyTorch engine's two stages on a core each, against the slower one alone",
    "training": "a training step of our DiT against PyTorch's (diffusers), as a ratio",
    "peers": "our PyTorch student against diffusers without a cache and Self-Forcing's causal loop",
    "loading": "a synthetic public checkpoint loaded by several processes, and the memory that it takes",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one benchmark; the exit status is 2 after bad input, 1 where a bound was not met."""
    return run("tm_jax.bench", lambda: _bench(list(sys.argv[1:] if argv is None else argv)))


def _bench(argv: list[str]) -> int:
    """Parse, measure, print; 1 where a bound was not met."""
    parser = Parser(prog="python -m tm_jax.bench", description=__doc__)
    parser.add_argument(
        "name", choices=list(BENCHMARKS), metavar="NAME", help="; ".join(map(": ".join, BENCHMARKS.items()))
    )
    name = parser.parse_args(argv[:1]).name
    module = importlib.import_module(f"tm_jax.bench.{name}")
    arguments = parse(
        module.Arguments, args=argv[1:], prog=f"python -m tm_jax.bench {name}", description=module.__doc__
    )
    report = module.run(arguments)
    if text := str(report):
        print(text)
    return 0 if getattr(report, "within_bound", True) else 1


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning)
    sys.exit(main())
