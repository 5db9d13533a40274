"""Trains one phase or a chain of them: ``python train.py PRESET [--field value ...]``; --help lists them."""

import sys

import configs
from tm_jax.command import run
from tm_jax.config import Chain, load


def main() -> int:
    """Trains as the command line says; returns the exit status."""
    return run("train.py", _train)


def _train() -> None:
    """Loads the config, then runs its phase among the other processes, or its phases one after another."""
    experiment = load(configs)
    # Importing JAX takes seconds: a mistyped flag is answered before.
    from tm_jax.training.cluster import join, leaving
    from tm_jax.training.loop import train

    if isinstance(experiment, Chain):
        experiment.run()
        return
    join(experiment.loop.cluster)
    with leaving():
        train(experiment.build(), experiment.loop, experiment)


if __name__ == "__main__":
    sys.exit(main())
