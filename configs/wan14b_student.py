"""The teacher of wan14b_teacher distilled to a sparse causal model of 2 steps a chunk, for 64 GPUs.

    python train.py wan14b_student               needs runs/wan14b_teacher

Self-Forcing's optimizers (generator 2e-6, critic 4e-7, β₁ 0, weight decay 0.01, EMA 0.99) and its 600 updates
of the student, five of the critic to each; CausVid's gradient clip 10 and guidance 3.5 + 1.

What it takes, by `python -m tm_jax.plan wan14b_student --topology …` (2026-11-28; time by the roofline), in
student_long, the program that takes the most memory:

    gpu:h100:8x8    35 of 80 GB a GPU     6.7 s an update, MFU 46 %      550 GPU-hours in all
    v5p:4x4x4       31 of 103 GB a chip   14.4 s, MFU 46 %             1,160 chip-hours
    v6e:16x16       23 of 34 GB a chip    8.4 s, MFU 39 %              1,190 chip-hours
    smallest        8 v5p chips (91 of 103 GB), 32 of v6e (26 of 34), 16 H100 (53 of 80): docs/plan.md
    with --lora 64  4 v5p chips (73 of 103 GB), 8 of v6e (20 of 34), 4 H100 (53 of 80)
"""

from pathlib import Path

from configs.wan14b_teacher import CLIP, MODEL, SCHEDULE, VIDEOS, WAN
from tm_jax.diffusion.sampler import Guidance, SamplerConfig
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.sharding import MeshConfig
from tm_jax.training.dmd import DistillationLoss
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.ode_pairs import PairsConfig
from tm_jax.training.optim import OptimConfig
from tm_jax.training.student_experiment import StudentExperiment

GUIDANCE = Guidance(audio=4.5)
OPTIM = OptimConfig(lr=2e-6, betas=(0.0, 0.999), weight_decay=0.01, clip=10.0)

PRESET = StudentExperiment(
    loop=LoopConfig(
        name="wan14b_student",
        steps=4000,
        batch_size=32,
        checkpoint_every=250,
        preview_every=250,
        mesh=MeshConfig(fsdp=-1, context=2),
    ),
    model=MODEL,
    vae=Path(WAN),
    teacher=Path("runs/wan14b_teacher/weights.safetensors"),
    rollout=RolloutConfig(chunk=CLIP.chunk, steps=2, schedule=SCHEDULE),
    loss=DistillationLoss(guidance=GUIDANCE, schedule=SCHEDULE),
    warmup=1000,
    critic_per_student=5,
    optim=OPTIM,
    warmup_optim=OPTIM,
    critic_optim=OptimConfig(lr=4e-7, betas=(0.0, 0.999), weight_decay=0.01, clip=10.0),
    clip=CLIP,
    videos=VIDEOS,
    pairs=PairsConfig(
        count=4096, batch=32, sampler=SamplerConfig(steps=40, schedule=SCHEDULE, guidance=GUIDANCE)
    ),
    ema=0.99,
)
