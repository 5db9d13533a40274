"""From our checkpoint to an export for PyTorch: python -m tm_jax.export CKPT --to DIR

    python -m tm_jax.export tm_jax/weights --to out/export --verify
    python -m tm_jax.export runs/wan14b_student --to out/export --dtype fp8 --wan WAN --prompt PROMPT

What is written is the moving average (EMA) of the weights, the only ones that our weights files hold.
"""

import dataclasses
import fnmatch
import sys
from pathlib import Path
from typing import Literal

from tm_jax.command import run
from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS, ShippedPath, parse


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write a student and all that it needs for a host without JAX."""

    checkpoint: Path
    """A folder with student.safetensors, a student's weights file, or the folder of a training run; may be
    given first without its flag."""
    to: Path
    """Folder to write; a new or an empty one, or that of an older export."""
    dtype: Literal["f32", "bf16", "fp8"] = "f32"
    """Precision of the student's matrices."""
    verify: bool = False
    """Run the parity gate against JAX and write its report into the export; exit status 1 if it fails."""
    keep: str = ""
    """Matrices that stay bf16 where the rest is FP8, like outer,blocks.0.*; of every block they are qkv, out,
    cross_query, cross_out, inner and outer."""
    chunks: int = 8
    """Chunks that the gate compares."""
    parts: ShippedPath = WEIGHTS
    """Folder of what lies not beside the student: vae.safetensors, visemes.safetensors, public folders."""
    wan: str = ""
    """Folder or Hub id of Wan's pipeline, for the VAE and picture encoder of a student born from it."""
    speech: str = "facebook/wav2vec2-base-960h"
    """Folder or Hub id of wav2vec2, for a student that hears by it."""
    prompt: Path | None = None
    """File of the prompt's embedding (default: prompt.safetensors beside the student)."""
    size: str = ""
    """Height and width of the video, like 512 or 480x832 (default: the model's own, 512 for Wan's)."""

    def __post_init__(self):
        if self.chunks < 1:
            raise InputError(f"--chunks {self.chunks}: compare at least 1.")


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, 1 where the gate failed, 2 after bad input."""
    return run("tm_jax.export", lambda: _export(list(sys.argv[1:] if argv is None else argv)))


def _export(argv: list[str]) -> int:
    """Parse, write, and where it is asked for verify."""
    if argv and not argv[0].startswith("-"):
        argv = ["--checkpoint", *argv]
    arguments = parse(Arguments, args=argv, prog="python -m tm_jax.export", description=__doc__)
    # Importing JAX takes seconds: a mistyped flag is answered before.
    from tm_jax.export.source import find_source
    from tm_jax.export.verify import verify
    from tm_jax.export.write import matrices, write_export
    from tm_jax.streaming.parts import parse_size

    source = find_source(
        arguments.checkpoint,
        parts=arguments.parts,
        wan=arguments.wan,
        speech=arguments.speech,
        prompt=arguments.prompt,
        size=parse_size(arguments.size) if arguments.size else None,
    )
    patterns = [part.strip() for part in arguments.keep.split(",") if part.strip()]
    every = matrices(source.student)
    kept = {name for name in every for pattern in patterns if _names(pattern, name)}
    if unknown := [pattern for pattern in patterns if not any(_names(pattern, name) for name in every)]:
        raise InputError(f"--keep {unknown[0]}: no matrix is called so; they are like {every[0]}.")
    write_export(source, arguments.to, arguments.dtype, frozenset(kept))
    print(f"{arguments.to}: {arguments.dtype}, {_size(arguments.to) / 1e6:.1f} MB")
    if not arguments.verify:
        return 0
    return 0 if verify(source, arguments.to, arguments.dtype, kept, chunks=arguments.chunks) else 1


def _names(pattern: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.rsplit(".", 1)[-1] == pattern


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
