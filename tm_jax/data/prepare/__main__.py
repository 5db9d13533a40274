"""Real talking videos → training shards: ``python -m tm_jax.data.prepare``; --help lists the flags."""

import sys

from tm_jax.command import run
from tm_jax.data.prepare.settings import PrepareConfig
from tm_jax.errors import InputError
from tm_jax.flags import parse


def main() -> int:
    """Prepares what the command line says; returns the exit status."""
    return run("tm_jax.data.prepare", _prepare, stopped="the same command goes on from here")


def _prepare() -> None:
    """Parse, prepare, print the report."""
    config = parse(PrepareConfig, prog="python -m tm_jax.data.prepare")
    # Importing JAX takes seconds: a mistyped flag is answered before.
    from tm_jax.data.prepare.work import prepare

    report = prepare(config)
    print(report.text)
    if not report.complete:
        print(f"{report.shards_wanted - report.shards} shards are still other processes' work.")
    elif not report.kept:
        raise InputError(
            f"None of the {report.videos} videos gave a clip, and the table above says why: "
            "mend the videos or relax --filters."
        )


if __name__ == "__main__":
    sys.exit(main())
