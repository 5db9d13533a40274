"""How fast the PyTorch engine serves: python -m tm_jax.bench serving --folder DIR | --random wan14b|tiny

Runs where no JAX is installed.  Sound is at hand as fast as it is asked for, but for the two delays that only
live sound has; a chunk's times are those of the engine's own two stages.

    python -m tm_jax.bench serving --random tiny                    # rehearsal on a CPU
    python -m tm_jax.bench serving --random wan14b --dtype fp8      # 18 B, random weights, 512×512, one GPU
    python -m tm_jax.bench serving --random wan14b --study          # the device study of the paper, one table
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Literal

from tm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure the streaming engine on an export or on random weights."""

    folder: Path | None = None
    """An export."""
    random: Literal["", "wan14b", "tiny"] = ""
    """Random weights of a size instead."""
    dtype: Literal["", "f32", "bf16", "fp8"] = ""
    """Precision of the student (default: the export's; bf16 for wan14b, f32 for tiny)."""
    dit_devices: str = ""
    """cpu or cuda:N (default: the first GPU, else the CPU)."""
    vae_devices: str = ""
    """The same for the VAE (default: the DiT's)."""
    chunk: int = 0
    """Latent frames a chunk (default: the export's; 3)."""
    steps: int = 0
    """Denoising steps (default: the export's; 2)."""
    chunks: int = 40
    """Chunks that are measured, after three that are not."""
    study: bool = False
    """Chunk 3 and 7, steps 1, 2 and 4, bf16 and FP8, DiT and VAE together and, with two devices, apart."""
    decode: bool = True
    """Measure the VAE too; without it, what the DiT reaches where the VAE has a device of its own."""
    live: bool = True
    """Measure what live sound waits for too: the first frame and speech after silence, in real time."""
    out: Path = Path("out/serving")
    """Folder for serving.json, serving.txt and timeline.png."""

    def __post_init__(self):
        if bool(self.folder) == bool(self.random):
            raise InputError("Give either an export by --folder or a size by --random.")
        if self.chunks < 3 or min(self.chunk, self.steps) < 0:
            raise InputError("--chunks must be at least 3, --chunk and --steps at least 1.")


def run(arguments: Arguments) -> str:
    """The table; figures and picture are in the folder."""
    from tm_jax.bench.serving_measure import OutOfMemory, measure, prepare
    from tm_jax.bench.serving_report import draw_timeline, table

    figures, left_out = [], []
    for dtype, apart in _settings(arguments):
        backend = prepare(arguments, dtype, apart)
        for chunk, steps in _rollouts(arguments, backend):
            try:
                figure = measure(
                    backend, chunk, steps, arguments.chunks, live=arguments.live, decode=arguments.decode
                )
            except OutOfMemory as error:
                if not arguments.study:
                    raise InputError(f"Chunks of {chunk} in {steps} steps do not fit: {error}.") from None
                left_out.append(f"{dtype}, chunks of {chunk}, {steps} steps: too little memory")
                continue
            figures.append(figure)
            print(table([figure]).splitlines()[-1], flush=True)
            _write(figures, arguments.out)
        del backend
    text = "\n".join([table(figures), *left_out])
    if figures:
        draw_timeline(figures, arguments.out / "timeline.png")
    return f"{text}\n\n{arguments.out}/: serving.json, serving.txt, timeline.png"


def _write(figures: list, out: Path) -> None:
    """All figures so far: what comes after may fail."""
    from tm_jax.bench.serving_report import table

    try:
        out.mkdir(parents=True, exist_ok=True)
        content = [dataclasses.asdict(figure) for figure in figures]
        (out / "serving.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (out / "serving.txt").write_text(table(figures) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"The figures could not be written to {out}: {error}.") from error


def _settings(arguments: Arguments) -> list[tuple[str, bool]]:
    """(precision, DiT and VAE apart) of every run, those of one precision together."""
    if not arguments.study:
        return [(arguments.dtype, False)]
    from tm_jax.torch_runtime.devices import default_devices, known_devices

    dtypes = [arguments.dtype] if arguments.dtype else ["bf16", "fp8"]
    first, second = default_devices()
    apart = [False, True] if len(known_devices()) > 2 and first != second else [False]
    return list(itertools.product(dtypes, apart))


def _rollouts(arguments: Arguments, backend) -> list[tuple[int, int]]:
    """(latent frames, steps) of every run."""
    if not arguments.study:
        return [(arguments.chunk or backend.rollout.chunk, arguments.steps or backend.rollout.steps)]
    chunks = [arguments.chunk] if arguments.chunk else [3, 7]
    chunks = [chunk for chunk in chunks if 3 * chunk <= backend.config.student.trained_frames]
    return list(itertools.product(chunks, [arguments.steps] if arguments.steps else [1, 2, 4]))
