"""The tiny world's student: the teacher distilled to a sparse causal model of 2 steps a chunk.

python train.py tiny_student                 needs runs/tiny_vae, runs/tiny_visemes, runs/tiny_teacher
"""

from pathlib import Path

from configs.tiny_teacher import CLIP, MODEL, SCHEDULE, VIDEOS
from tm_jax.diffusion.sampler import Guidance, SamplerConfig
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.training.dmd import DistillationLoss
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.ode_pairs import PairsConfig
from tm_jax.training.optim import OptimConfig
from tm_jax.training.student_experiment import StudentExperiment

GUIDANCE = Guidance(audio=1.5)
OPTIM = OptimConfig(lr=2e-4, betas=(0.9, 0.99), clip=1.0)
STUDENT = OptimConfig(lr=1e-4, betas=(0.0, 0.99), clip=1.0)

PRESET = StudentExperiment(
    loop=LoopConfig(name="tiny_student", steps=390, batch_size=4, checkpoint_every=100, preview_every=150),
    model=MODEL,
    vae=Path("runs/tiny_vae/weights.safetensors"),
    visemes=Path("runs/tiny_visemes/weights.safetensors"),
    teacher=Path("runs/tiny_teacher/weights.safetensors"),
    rollout=RolloutConfig(chunk=CLIP.chunk, steps=2, schedule=SCHEDULE),
    loss=DistillationLoss(guidance=GUIDANCE, schedule=SCHEDULE, face=2.0, mouth=6.0, low=0.5),
    warmup=150,
    critic_per_student=3,
    long_chunks=10,
    optim=STUDENT,
    warmup_optim=OptimConfig(lr=3e-4, betas=(0.0, 0.99), clip=1.0),
    critic_optim=OPTIM,
    clip=CLIP,
    videos=VIDEOS,
    pairs=PairsConfig(count=160, sampler=SamplerConfig(steps=12, schedule=SCHEDULE, guidance=GUIDANCE)),
)
