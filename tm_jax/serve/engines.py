"""Which engine makes the video of the calls: chosen by name, its framework imported only then."""

from typing import Any

from tm_jax.streaming.engine import StreamEngine


def load(arguments: Any) -> StreamEngine:
    """The engine that the command's ``backend``, ``weights`` and devices ask for.

    Raises:
      ModuleNotFoundError: its framework is not installed.
      InputError: a part is missing or damaged.
    """
    if arguments.backend == "torch":
        from tm_jax.torch_runtime.engine import load_engine
    else:
        from tm_jax.streaming.parts import load_engine
    devices = {"dit_device": arguments.dit_devices, "vae_device": arguments.vae_devices}
    return load_engine(arguments.weights, steps=arguments.steps, **devices)
