"""Copies a finished run's weights to where ``infer.py`` looks for them, as float16.

python -m tm_jax.training.ship --student runs/tiny_student/weights.safetensors
"""

import dataclasses
import sys
from pathlib import Path

from tm_jax.config import to_json
from tm_jax.diffusion.rollout import RolloutConfig
from tm_jax.evaluation.reader import Reader, ReaderConfig
from tm_jax.flags import parse
from tm_jax.models.dit import DiT, DiTConfig
from tm_jax.models.vae import VAE, VAEConfig
from tm_jax.models.visemes import VisemeConfig, VisemeEncoder
from tm_jax.pretrained.weights import is_own, load_model, read_config, read_header, save_model
from tm_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Ship a VAE, a student, what it hears through and the reader that measures them."""

    vae: Path = Path("runs/tiny_vae_refined/weights.safetensors")
    """The VAE's run; a public folder or Hub id is left where it is."""
    reader: Path = Path("runs/tiny_reader/weights.safetensors")
    """The run of the evaluation's reader; left out if the file does not exist."""
    visemes: Path = Path("runs/tiny_visemes/weights.safetensors")
    """The run of the viseme encoder; left out if the file does not exist."""
    student: Path = Path("runs/tiny_student/weights.safetensors")
    """The student's run."""
    preset: str = "tiny_student"
    """The preset that the student was trained by; its rollout is written into the file."""
    out: Path = Path("tm_jax/weights")
    """Folder to write vae, visemes, student and reader.safetensors to."""


def _ship(source: Path, target: Path, model_class, config_class, extra: dict) -> None:
    model = load_model(source, model_class, config_class)
    origin = read_header(source).meta
    config = read_config(source, config_class)
    save_model(target, model, config, meta={"trained": origin, **extra}, dtype="f16")
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


def rollout_of(preset: str) -> RolloutConfig:
    """The rollout that a student preset distils for."""
    import importlib

    return importlib.import_module(f"configs.{preset}").PRESET.rollout


def main() -> int:
    """Writes the files; returns the exit status."""
    try:
        arguments = parse(Arguments, prog="python -m tm_jax.training.ship")
        arguments.out.mkdir(parents=True, exist_ok=True)
        if is_own(arguments.vae):
            _ship(arguments.vae, arguments.out / "vae.safetensors", VAE, VAEConfig, {})
        else:
            print(f"{arguments.vae} is public and is not copied: infer.py reads it by --wan")
        if arguments.reader.exists():
            _ship(arguments.reader, arguments.out / "reader.safetensors", Reader, ReaderConfig, {})
        if arguments.visemes.exists():
            _ship(arguments.visemes, arguments.out / "visemes.safetensors", VisemeEncoder, VisemeConfig, {})
        rollout = {"rollout": to_json(rollout_of(arguments.preset))}
        _ship(arguments.student, arguments.out / "student.safetensors", DiT, DiTConfig, rollout)
    except InputError as error:
        print(f"ship: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
