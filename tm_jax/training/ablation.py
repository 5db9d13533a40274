"""What each part of the distillation is worth: short trainings that differ in one thing, measured alike.

    python train.py tiny_ablation                        every variant, a line each
    python train.py tiny_ablation --only "warm-up alone" both

Each variant has a run of its own and goes on where it was interrupted.  All start from one teacher and see
the same number of steps, so the lines compare with each other, and with nothing else.
"""

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

from tm_jax.errors import InputError
from tm_jax.flags import WEIGHTS
from tm_jax.training.interpolate import between
from tm_jax.training.student_experiment import StudentExperiment

VARIANTS: dict[str, dict[str, Any]] = {
    "warm-up alone": {"dmd_steps": 0},
    "DMD alone": {"warmup": 0, "loss.regression": 0.0},
    "both": {},
    "both, DMD ¼": {"loss.dmd": 0.25},
    "critic first": {"critic_lead": 60},
    "critic first, student slow": {"critic_lead": 60, "optim.lr": 2e-5},
    "critic first, DMD 1/20 of regression": {"critic_lead": 60, "loss.dmd": 0.05, "loss.regression": 1.0},
    "critic first, DMD 1/20 of regression, ρ 0.7": {
        "critic_lead": 60,
        "loss.dmd": 0.05,
        "loss.regression": 1.0,
        "rollout.correlation": 0.7,
    },
    "critic first, DMD 1/20 of regression, ρ 0.7, critic on all sources": {
        "critic_lead": 60,
        "critic_mixed": True,
        "loss.dmd": 0.05,
        "loss.regression": 1.0,
        "rollout.correlation": 0.7,
    },
    "guidance 1.0 in DMD": {"loss.guidance.audio": 1.0},
    "guidance 1.0": {"loss.guidance.audio": 1.0, "pairs.sampler.guidance.audio": 1.0},
    "guidance 1.5 in the mouth": {
        "loss.guidance.mouth_alone": True,
        "pairs.sampler.guidance.mouth_alone": True,
    },
    "ρ 0.7": {"rollout.correlation": 0.7},
    "ρ 0.9": {"rollout.correlation": 0.9},
    "own clips alone": {"real_start": 0.0, "long_every": 0},
    "real clips alone": {"real_start": 1.0, "exit_first": 0.0, "long_every": 0},
    "long clips alone": {"long_every": 1},
    "warm-up alone, clean K/V": {"dmd_steps": 0, "rollout.clean_kv": True},
    "both, clean K/V": {"rollout.clean_kv": True},
    "chunk 4": {"rollout.chunk": 4, "clip.chunk": 4, "clip.chunks": 3},
    "1 step": {"rollout.steps": 1, "real_start": 0.0},
    "4 steps": {"rollout.steps": 4},
    "σ 1 and ½": {"rollout.schedule.shift": 1.0},
    "both, 0.3 of the way": {"of": "both", "share": 0.3},
    "ρ 0.7, 0.3 of the way": {"of": "ρ 0.7", "share": 0.3},
    "σ 1 and ½, 0.3 of the way": {"of": "σ 1 and ½", "share": 0.3},
}
"""By name: what a variant changes, as fields of the experiment by their dotted names.

``dmd_steps`` is the number of steps after the warm-up.  ``of`` and ``share``: the training is another
variant's, and the weights lie so far from its warm-up to its end (`interpolate`)."""


def changed(config: Any, changes: dict[str, Any]) -> Any:
    """The config with these fields, given by their dotted names, replaced at once: some fit only together."""
    own = {name: value for name, value in changes.items() if "." not in name}
    for part in {name.partition(".")[0] for name in changes.keys() - own.keys()}:
        start = f"{part}."
        inner = {name.removeprefix(start): value for name, value in changes.items() if name.startswith(start)}
        own[part] = changed(getattr(config, part), inner)
    return dataclasses.replace(config, **own)


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Variants of one distillation."""

    student: StudentExperiment
    """What every variant begins with."""
    warmup: int = 100
    """Steps of regression alone, where a variant has them."""
    dmd_steps: int = 90
    """Steps after the warm-up."""
    clips: int = 12
    """Held-out clips of each line."""
    only: tuple[str, ...] = ()
    """Names of the variants to run; none for all."""
    reader: Path = WEIGHTS / "reader.safetensors"
    """Weights of the reader that measures."""
    out: Path = Path("out/ablation")
    """Folder of the runs and of ablation.json."""

    def __post_init__(self):
        unknown = [name for name in self.only if name not in VARIANTS]
        if unknown:
            raise ValueError(f"only {', '.join(unknown)}: the variants are {', '.join(VARIANTS)}")

    def experiment(self, name: str) -> StudentExperiment:
        """The experiment of a variant: its warm-up and DMD steps add up to the same number."""
        changes = dict(VARIANTS[name])
        if "of" in changes:
            return self.experiment(changes["of"])
        warmup = changes.pop("warmup", self.warmup)
        total = self.warmup + self.dmd_steps
        if changes.pop("dmd_steps", None) == 0:
            warmup = total
        folder = self.out / "".join(letter if letter.isalnum() else "_" for letter in name)
        total += changes.get("critic_lead", 0)
        loop = dataclasses.replace(
            self.student.loop, name=f"ablation: {name}", steps=total, run_dir=folder, preview_every=0
        )
        return changed(self.student, changes | {"loop": loop, "warmup": warmup})

    def run(self) -> None:
        """Train and measure every variant that is not done yet; print a line each.

        Raises:
            InputError: a training finds something wrong, or its time limit ended it.
        """
        path = self.out / "ablation.json"
        done = json.loads(path.read_text("utf-8")) if path.exists() else {}
        for name in self.only or VARIANTS:
            experiment = self.experiment(name)
            key = f"{name}, {experiment.warmup} + {experiment.loop.steps - experiment.warmup} steps"
            if key not in done:
                done[key] = self._line(experiment, VARIANTS[name].get("share", 1.0))
                path.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"{key}: " + ", ".join(f"{figure} {value:.3g}" for figure, value in done[key].items()))

    def _line(self, experiment: StudentExperiment, share: float) -> dict[str, float]:
        from tm_jax.pretrained.runs import saved_steps
        from tm_jax.training.loop import train

        loop = experiment.loop
        if loop.steps not in saved_steps(loop.folder / "checkpoints"):
            print(loop.name, file=sys.stderr)
            train(experiment.build(), loop, experiment)
        if loop.steps not in saved_steps(loop.folder / "checkpoints"):
            raise InputError(f"{loop.name} is not done: the same command goes on with it.")
        return self._measured(experiment, between(loop.folder, share))

    def _measured(self, experiment: StudentExperiment, student: Path) -> dict[str, float]:
        from tm_jax.evaluation import clip_report, comparison
        from tm_jax.evaluation.__main__ import Arguments
        from tm_jax.evaluation.systems import Systems, held_out_batches

        arguments = Arguments(
            what="student",
            clips=self.clips,
            vae=Path(experiment.vae),
            reader=self.reader,
            visemes=Path(experiment.visemes),
            student=student,
            teacher=Path("none"),
            warmup=Path("none"),
            size=experiment.videos.size,
        )
        systems = Systems(arguments)
        batches = held_out_batches(arguments, systems, "heldout", self.clips)
        generators = {"student": systems.streamer(student)}
        results = clip_report.run(batches, generators, systems.reader, systems.rollout.chunk)
        real, ours, truth = results.measured["real"], results.measured["student"], results.truth
        sync = comparison.sync_of(ours, truth).correlation.mean
        distance = comparison.distances_to_real({"student": ours}, real)["student"]
        ratios = comparison.picture_ratios(ours, real) | comparison.movement_ratios(ours, real, truth)
        figures = {"lip-sync": sync, "Fréchet": distance, **ratios}
        # What can't be said of a student, such as how far its lids close if they never do, is left out.
        return {name: value for name, value in figures.items() if math.isfinite(value)}
