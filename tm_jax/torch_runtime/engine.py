"""An export as a streaming engine: ``load_engine(DIR)``, embeddable where no JAX is installed.

engine = load_engine("export", dit_device="cuda:0", vae_device="cuda:1")
with engine.session(picture) as session: …        # see streaming.engine
"""

import os
from pathlib import Path

from tm_jax.streaming.engine import StreamEngine
from tm_jax.torch_runtime.export_format import Dtype
from tm_jax.torch_runtime.parts import load_backend


def load_engine(
    folder: str | os.PathLike,
    *,
    dit_device: str | None = None,
    vae_device: str | None = None,
    dtype: Dtype | None = None,
    steps: int | None = None,
) -> StreamEngine:
    """The engine of an export.

    Args:
      dit_device: cpu or cuda:N; None is the first GPU, or the CPU where there is none.
      vae_device: the same for the VAE; None is the DiT's device, or where none is given for either and the
        student is born from Wan, the second GPU if there is one.
      dtype: f32, bf16 or fp8; None is the export's own.  Another one is made of it when it is loaded.
      steps: denoising steps of a chunk; None takes those that the student was distilled for.

    Raises:
      InputError: no export or one of another version, a device that doesn't exist or is too small, or a part
        that is missing or damaged.
    """
    backend = load_backend(Path(folder), dit_device=dit_device, vae_device=vae_device, dtype=dtype)
    if steps is not None:
        backend = backend.with_rollout(backend.rollout.in_steps(steps))
    return StreamEngine(backend)
