"""How much of blinks, glances, head and mouth a teacher gives back (`event_gains`).

python -m tm_jax.evaluation.gains --model runs/tiny_teacher/weights.safetensors
"""

import dataclasses
import sys
from pathlib import Path

from tm_jax.command import run
from tm_jax.flags import WEIGHTS, ShippedPath, parse


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure how much of blinks, glances, head and mouth a teacher gives back at each noise level."""

    model: Path
    """Weights of the teacher."""
    vae: ShippedPath = WEIGHTS / "vae.safetensors"
    """Weights of the VAE."""
    visemes: ShippedPath = WEIGHTS / "visemes.safetensors"
    """Weights of the viseme encoder."""
    clips: int = 8
    """Held-out clips."""
    chunk: int = 3
    """Latent frames a chunk."""


def main() -> int:
    """Prints the table; returns the exit status."""
    return run("tm_jax.evaluation.gains", _measure)


def _measure() -> None:
    """Parse, measure, print."""
    arguments = parse(Arguments, prog="python -m tm_jax.evaluation.gains")
    # Importing JAX takes seconds: a mistyped flag is answered before.
    from tm_jax.data.latent_clips import ClipConfig
    from tm_jax.evaluation.event_gains import LEVELS, event_clips, model_gains
    from tm_jax.evaluation.report import Figure, table
    from tm_jax.models.dit import DiT
    from tm_jax.models.dit_config import DiTConfig
    from tm_jax.models.vae import VAE
    from tm_jax.models.vae_config import VAEConfig
    from tm_jax.pretrained.front_ends import load_front_end
    from tm_jax.pretrained.weights import load_model

    model = load_model(arguments.model, DiT, DiTConfig)
    config = model.config
    clip = ClipConfig(
        chunk=arguments.chunk,
        chunks=config.trained_frames // arguments.chunk,
        audio_left=config.audio_left,
        audio_lookahead=config.audio_lookahead,
        image_patch=config.image_patch or 1,
        text_length=config.text_length,
        text_width=config.text_width,
    )
    vae, front_end = load_model(arguments.vae, VAE, VAEConfig), load_front_end(arguments.visemes)
    clips = event_clips(vae, front_end, clip, still=config.still_condition, count=arguments.clips)
    measured = model_gains(model, clips)
    rows = [
        Figure(f"{name}: gain at σ = {level:g}", value)
        for name, values in measured.items()
        for level, value in zip(LEVELS, values, strict=True)
    ]
    print(table(rows))


if __name__ == "__main__":
    sys.exit(main())
