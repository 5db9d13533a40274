"""Real talking videos → training shards: ``python -m tm_jax.data.prepare``; --help lists the flags."""

import sys

from tm_jax.data.prepare.settings import PrepareConfig
from tm_jax.errors import InputError
from tm_jax.flags import parse

NAME = "python -m tm_jax.data.prepare"


def main() -> int:
    """Parse, prepare, print the report; returns the exit status."""
    try:
        config = parse(PrepareConfig, prog=NAME)
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
    except InputError as error:
        print(f"tm_jax.data.prepare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tm_jax.data.prepare: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
