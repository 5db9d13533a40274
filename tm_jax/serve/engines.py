"""Which engine makes the video of the calls: chosen by name, its framework imported only then."""

from typing import Any

from tm_jax.errors import InputError
from tm_jax.streaming.engine import StreamEngine


def load(arguments: Any) -> StreamEngine:
    """The engine that the command's ``backend``, ``weights`` and devices ask for.

    Raises:
      InputError: its framework is not installed, or a part is missing or damaged.
    """
    try:
        if arguments.backend == "torch":
            from tm_jax.torch_runtime.engine import load_engine
        else:
            from tm_jax.streaming.parts import load_engine
    except ModuleNotFoundError as error:
        package = {"torch": "PyTorch", "jax": "JAX", "flax": "Flax"}.get(error.name or "")
        if package is None:
            raise
        raise InputError(
            f"--backend {arguments.backend} needs {package}, which is not installed: install it, or choose "
            "the other backend."
        ) from None
    return load_engine(arguments.weights, dit_device=arguments.dit_devices, vae_device=arguments.vae_devices)
