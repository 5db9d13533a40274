"""Weights between a warmed-up student and the one that DMD made of it.

    python -m tm_jax.training.interpolate --start RUN/warmup.safetensors --end RUN/weights.safetensors \\
      --share 0.3 --out RUN/student.safetensors

Both lie on one road, and a part of it keeps most of what DMD adds (detail, movement) and little of what it
costs (flicker, jitter): weight interpolation as in WiSE-FT.  docs/benchmarks.md has figures by the share.
Both are read slice by slice onto all devices, and neither is ever whole on the host.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from tm_jax.command import run
from tm_jax.config import to_json
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.errors import InputError
from tm_jax.flags import parse
from tm_jax.models.dit_config import DiTConfig


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write the student that lies a share of the way from one to another."""

    start: Path
    """Weights of the student after the warm-up alone."""
    end: Path
    """Weights of the same student after DMD."""
    out: Path
    """File to write."""
    share: float = 0.3
    """How far from the start: 0 is the start, 1 the end."""
    shift: float | None = None
    """Timestep shift of the noise levels that it streams at; None is what it was distilled for."""
    correlation: float | None = None
    """Correlation ρ of the noise between neighbouring chunks; None is what it was distilled for."""

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise ValueError(f"share {self.share:g}: it lies from 0 to 1")
        self.streamed(RolloutConfig())

    def streamed(self, rollout: RolloutConfig) -> RolloutConfig:
        """How the student streams that was distilled for this rollout."""
        changes: dict[str, Any] = {}
        if self.shift is not None:
            changes["schedule"] = dataclasses.replace(rollout.schedule, shift=self.shift)
        if self.correlation is not None:
            changes["correlation"] = self.correlation
        return dataclasses.replace(rollout, **changes)


def between(folder: Path, share: float) -> Path:
    """A student of a run, so far from the end of its warm-up to that of DMD; written if it isn't there yet.

    Raises:
      InputError: see ``interpolate``.
    """
    end, out = folder / "weights.safetensors", place_between(folder, share)
    if out != end and not (out.exists() and out.stat().st_mtime >= end.stat().st_mtime):
        interpolate(Arguments(folder / "warmup.safetensors", end, out, share))
    return out


def place_between(folder: Path, share: float) -> Path:
    """The file of ``between``."""
    return folder / ("weights.safetensors" if share == 1 else f"{share:g}_of_the_way.safetensors")


def interpolate(arguments: Arguments) -> None:
    """Writes the file.

    Raises:
      InputError: a file is missing, damaged or no student, the two differ in their model or in how they
        stream, or the file cannot be written.
    """
    # Importing JAX takes seconds: a mistyped flag is answered before.
    import jax

    from tm_jax.pretrained.weights import read_config, read_header, save_sharded
    from tm_jax.sharding import MeshConfig, ShardingRules, make_mesh
    from tm_jax.streaming.jax_engine import read_rollout
    from tm_jax.training.networks import open_dit

    start, end, share = arguments.start, arguments.end, arguments.share
    rollout, config = read_rollout(end), read_config(end, DiTConfig)
    if read_rollout(start) != rollout:
        raise InputError(f"{start} and {end} were distilled for other steps or chunks: take both of one run.")
    mix = jax.jit(lambda one, other: (1 - share) * one + share * other, donate_argnums=0)
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=-1))):
        # Both are found to fit before either is read.
        sources = [open_dit(path, config) for path in (start, end)]
        model = jax.tree.map(mix, *(source.load(ShardingRules()) for source in sources))
        made = {
            "rollout": to_json(arguments.streamed(rollout)),
            "interpolated": {"share": share, "start": read_header(start).meta, "end": read_header(end).meta},
        }
        save_sharded(arguments.out, model, config, made, step=0)


def main() -> int:
    """Writes the file; returns the exit status."""
    name = "tm_jax.training.interpolate"

    def work() -> None:
        arguments = parse(Arguments, prog=f"python -m {name}")
        interpolate(arguments)
        print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB")

    return run(name, work)


if __name__ == "__main__":
    sys.exit(main())
