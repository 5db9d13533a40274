"""A whole distillation in seconds, on real (random) prepared clips, in one process or in several.

    python -m tests.training.tiny_distillation FOLDER [--loop.steps 6 …]

FOLDER holds what ``prepare`` wrote; the run itself is the flag --loop.run-dir's.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

from tests.models.dit_cases import build
from tests.training.tiny import videos
from tm_jax.data.encoded_videos import EncodedConfig
from tm_jax.data.latent_clips import ClipConfig
from tm_jax.data.prepare.shards import to_bytes, write_records
from tm_jax.diffusion.sampler import Guidance, SamplerConfig
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.errors import InputError
from tm_jax.flags import parse
from tm_jax.models.dit_config import DiTConfig
from tm_jax.pretrained.weights import save_model
from tm_jax.training.cluster import join, leaving
from tm_jax.training.dmd import DistillationLoss
from tm_jax.training.loop import train
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.ode_pairs import PairsConfig
from tm_jax.training.optim import OptimConfig
from tm_jax.training.student_experiment import StudentExperiment
from tm_jax.training.teacher_phase import TeacherExperiment

CLIP = ClipConfig(chunk=1, chunks=3, text_length=3, text_width=8)
MODEL = DiTConfig(
    width=32, ffn=32, heads=4, layers=2, patch=(1, 1, 1), in_channels=12, out_channels=4, text_width=8,
    text_length=3, image_width=4, image_length=4, audio_width=6, audio_dim=16, audio_lookahead=0,
    time_frequencies=16, trained_frames=3, dtype="float32", remat="none",
)  # fmt: skip
OPTIM = OptimConfig(lr=1e-3, clip=1.0)


def prepare(folder: Path, frames: int = 9) -> None:
    """Ten prepared clips of random latents, and a teacher with no parameter at zero."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [dataclasses.replace(one, reference=one.reference[:3]) for one in videos(10, frames=frames)]
    facts = {
        "reference_frames": 3, "latent_channels": 4, "audio_width": 6, "image_width": None, "text_width": 8,
        "size": [16, 16], "spatial_stride": 8,
    }  # fmt: skip
    (folder / "reports").mkdir()
    (folder / "prepare.json").write_text(json.dumps({"facts": facts}))
    entries = [{"split": "train", "clips": [{"reason": None, "latents": frames}]} for _ in made]
    (folder / "reports" / "00000-of-00001.json").write_text(json.dumps({"videos": entries}))
    write_records(folder / "shards" / "00000-of-00001.array_record", [to_bytes(video) for video in made])
    save_model(folder / "teacher.safetensors", build(MODEL, 3), MODEL)


def teacher(folder: Path, **loop) -> TeacherExperiment:
    """A teacher's training on those clips."""
    settings = {"batch_size": 8, "preview_every": 0, "log_every": 1} | loop
    return TeacherExperiment(
        LoopConfig("teacher", **settings), MODEL, folder / "no.safetensors", clip=CLIP, prepared=folder,
        optim=OPTIM, videos=EncodedConfig(size=16, reference_frames=3),
    )  # fmt: skip


def student(folder: Path, **loop) -> StudentExperiment:
    """Warm-up for one step, then the student with every update of the critic; every fourth clip is long."""
    settings = {"steps": 4, "batch_size": 8, "preview_every": 0, "log_every": 1} | loop
    return StudentExperiment(
        loop=LoopConfig("student", **settings),
        model=MODEL,
        vae=folder / "no.safetensors",
        teacher=folder / "teacher.safetensors",
        rollout=RolloutConfig(chunk=1),
        loss=DistillationLoss(guidance=Guidance(audio=2.0)),
        warmup=1,
        critic_per_student=1,
        exit_first=0.0,
        real_start=0.0,
        long_every=0,
        long_chunks=5,
        optim=OPTIM,
        warmup_optim=OPTIM,
        critic_optim=OPTIM,
        clip=CLIP,
        videos=EncodedConfig(size=16, reference_frames=3),
        prepared=folder,
        pairs=PairsConfig(count=10, batch=8, sampler=SamplerConfig(steps=2)),
        cache=folder / "cache",
    )


def main() -> int:
    """One process of a distillation; returns its exit status."""
    folder = Path(sys.argv[1])
    try:
        experiment = parse(StudentExperiment, default=student(folder), args=sys.argv[2:], prog="distil")
        join(experiment.loop.cluster)
        with leaving():
            train(experiment.build(), experiment.loop, experiment)
    except InputError as error:
        print(f"distil: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_disable_most_optimizations", True)
    np.random.seed(0)
    sys.exit(main())
