"""The gate applied to an export, and an FP8 export mended until the gate admits it.

The gate says that an export as a whole is too far off, not why.  What FP8 does to each matrix by itself is
measured once, on the same rollout in bf16, and the worst ones stay in bf16, a few more each time.
"""

import statistics
import tempfile
from pathlib import Path

from tm_jax.export import gate
from tm_jax.export.source import Source
from tm_jax.export.write import write_export
from tm_jax.torch_runtime.export_format import Dtype
from tm_jax.torch_runtime.fp8 import output_errors
from tm_jax.torch_runtime.parts import load_backend

ROUNDS = 4
"""Times that an FP8 export is judged: as it was asked for, then with ever fewer matrices in FP8."""
OUTLYING = 3.0
"""A matrix this much worse than the median one is the first to be suspected."""


def verify(source: Source, folder: Path, dtype: Dtype, kept: set[str], *, chunks: int) -> bool:
    """Whether the gate admits the export in a folder; its report is written there and printed.

    Args:
      kept: matrices that are in bf16 where the rest is FP8.
      chunks: that are compared.
    """
    backend = gate.reference_backend(source)
    inputs = gate.shipped_inputs(backend.size)
    expected = gate.roll_out(backend, gate.of_jax, *inputs, chunks=chunks)
    del backend
    errors: dict[str, float] = {}
    for attempt in range(ROUNDS):
        exported = load_backend(folder, dit_device="cpu", vae_device="cpu")
        made = gate.roll_out(exported, gate.of_torch, *inputs, chunks=chunks)
        report = gate.judge(made, expected, exported, dtype)
        if report.passed or dtype != "fp8" or attempt == ROUNDS - 1:
            break
        errors = errors or _alone(source, folder, inputs, chunks)
        in_fp8 = {name: error for name, error in errors.items() if name not in kept}
        if not in_fp8:
            break
        kept = kept | suspects(in_fp8)
        print(f"the gate refused it; in bf16 are now {', '.join(sorted(kept))}", flush=True)
        write_export(source, folder, dtype, frozenset(kept))
    gate.write_report(report, folder)
    print(report)
    return report.passed


def _alone(source: Source, folder: Path, inputs: tuple, chunks: int) -> dict[str, float]:
    """What FP8 does to each matrix by itself, on a rollout in bf16."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        write_export(source, Path(place) / "bf16", "bf16")
        whole = load_backend(Path(place) / "bf16", dit_device="cpu", vae_device="cpu")
        with output_errors(whole.dit.student) as errors:
            gate.roll_out(whole, gate.of_torch, *inputs, chunks=chunks)
    return errors


def suspects(errors: dict[str, float]) -> set[str]:
    """The matrices to take out of FP8 next: those that stand out, or else the worst quarter."""
    limit = OUTLYING * statistics.median(errors.values())
    outlying = {name for name, error in errors.items() if error > limit}
    ranked = sorted(errors, key=errors.get, reverse=True)
    return outlying or set(ranked[: max(1, len(ranked) // 4)])
