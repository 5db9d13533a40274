"""Copies a finished run's weights to where ``infer.py`` looks for them, as float16.

python -m tm_jax.training.release --student runs/tiny_student/weights.safetensors
"""

import dataclasses
import sys
from pathlib import Path

from tm_jax.command import run
from tm_jax.config import to_json
from tm_jax.flags import parse
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae_config import VAEConfig
from tm_jax.models.viseme_config import VisemeConfig


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Ship a VAE, a student, what it hears through and the reader that measures them."""

    vae: Path = Path("runs/tiny_decoder/weights.safetensors")
    """The run of the VAE that streams; a public folder or Hub id is left where it is."""
    reader: Path = Path("runs/tiny_reader/weights.safetensors")
    """The run of the evaluation's reader; left out if the file does not exist."""
    visemes: Path = Path("runs/tiny_visemes/weights.safetensors")
    """The run of the viseme encoder; left out if the file does not exist."""
    student: Path = Path("runs/tiny_student/weights.safetensors")
    """The student's run."""
    out: Path = Path("tm_jax/weights")
    """Folder to write vae, visemes, student and reader.safetensors to."""


def _copy(source: Path, target: Path, model_class, config_class, extra: dict) -> None:
    from tm_jax.pretrained.weights import load_model, read_config, read_header, save_model

    model = load_model(source, model_class, config_class)
    origin = read_header(source).meta
    config = read_config(source, config_class)
    if isinstance(config, DiTConfig) and config.image_patch is not None:
        # Trained on an accelerator or not, a small student streams on any machine.
        config = dataclasses.replace(config, dtype="float32", attention="auto")
    save_model(target, model, config, meta={"trained": origin, **extra}, dtype="f16")
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


def release(arguments: Arguments) -> None:
    """Writes the files.

    Raises:
        InputError: one is missing or damaged, or the student doesn't say what it was distilled for.
    """
    # Importing JAX takes seconds: a mistyped flag is answered before.
    from tm_jax.evaluation.reader import Reader, ReaderConfig
    from tm_jax.models.dit import DiT
    from tm_jax.models.vae import VAE
    from tm_jax.models.visemes import VisemeEncoder
    from tm_jax.pretrained.weights import is_own
    from tm_jax.streaming.jax_engine import read_rollout

    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if is_own(arguments.vae):
        _copy(arguments.vae, out / "vae.safetensors", VAE, VAEConfig, {})
    else:
        print(f"{arguments.vae} is public and is not copied: infer.py reads it by --wan")
    if arguments.reader.exists():
        _copy(arguments.reader, out / "reader.safetensors", Reader, ReaderConfig, {})
    if arguments.visemes.exists():
        _copy(arguments.visemes, out / "visemes.safetensors", VisemeEncoder, VisemeConfig, {})
    rollout = {"rollout": to_json(read_rollout(arguments.student))}
    _copy(arguments.student, out / "student.safetensors", DiT, DiTConfig, rollout)


def main() -> int:
    """Writes the files; returns the exit status."""
    prog = "python -m tm_jax.training.release"
    return run("tm_jax.training.release", lambda: release(parse(Arguments, prog=prog)))


if __name__ == "__main__":
    sys.exit(main())
