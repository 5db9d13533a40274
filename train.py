"""Trains one phase or a chain of them: ``python train.py PRESET [--field value ...]``; --help lists them."""

import sys

import configs
from tm_jax.config import Chain, load
from tm_jax.errors import InputError


def main() -> int:
    """Loads the config, builds the phase, runs the loop; returns the exit status."""
    try:
        experiment = load(configs)
        # Importing JAX takes seconds: a mistyped flag is answered before.
        from tm_jax.training.loop import train

        if isinstance(experiment, Chain):
            experiment.run()
        else:
            train(experiment.build(), experiment.loop, experiment)
    except InputError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
