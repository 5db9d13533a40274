"""Wan2.1-I2V-14B learns to hear: the teacher, 17.7 B parameters at 512×512, for 64 GPUs.

    python train.py wan14b_teacher --init-from Wan-AI/Wan2.1-I2V-14B-480P-Diffusers

Mesh fsdp × context 2; on other numbers of devices give --loop.batch-size, a multiple of fsdp.  Attention over
21,504 tokens needs a fused kernel, cuDNN's on GPUs and splash on TPUs: --model.attention xla would hold 37 GB
of logits.  The paper and Wan tell no optimizer for this phase: these numbers are this project's, and untried
at this size.

What it takes, by `python -m tm_jax.plan wan14b_teacher --topology …` (2026-11-28; time by the roofline):

    gpu:h100:8x8    15 of 80 GB a GPU     3.0 s a step, MFU 46 %    1,070 GPU-hours in all
    v5p:4x4x4       19 of 103 GB a chip   6.5 s a step, MFU 46 %    2,300 chip-hours
    v6e:16x16       16 of 34 GB a chip    3.6 s, MFU 41 %            1,290 chip-hours
    gpu:h100:1x8    65 of 80 GB a GPU     a batch in 8 parts, --mesh fsdp=4,context=2
"""

from pathlib import Path

from tm_jax.data.encoded_videos import EncodedConfig
from tm_jax.data.latent_clips import ClipConfig
from tm_jax.diffusion.sampler import Guidance, SamplerConfig
from tm_jax.diffusion.schedule import Schedule
from tm_jax.models.dit_config import DiTConfig
from tm_jax.sharding import MeshConfig
from tm_jax.training.flow_matching import FlowMatchingLoss
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig
from tm_jax.training.teacher_phase import TeacherExperiment

WAN = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
SCHEDULE = Schedule(shift=3.0)
MODEL = DiTConfig()
CLIP = ClipConfig(
    audio_left=MODEL.audio_left,
    audio_lookahead=MODEL.audio_lookahead,
    text_length=MODEL.text_length,
    text_width=MODEL.text_width,
)
VIDEOS = EncodedConfig(size=512, reference_frames=MODEL.trained_frames)

PRESET = TeacherExperiment(
    loop=LoopConfig(
        name="wan14b_teacher",
        steps=20_000,
        batch_size=32,
        checkpoint_every=1000,
        preview_every=1000,
        mesh=MeshConfig(fsdp=-1, context=2),
    ),
    model=MODEL,
    vae=Path(WAN),
    optim=OptimConfig(lr=1e-5, warmup_steps=500, weight_decay=0.01, clip=1.0),
    loss=FlowMatchingLoss(schedule=SCHEDULE, face=1.5),
    clip=CLIP,
    videos=VIDEOS,
    sampler=SamplerConfig(steps=40, schedule=SCHEDULE, guidance=Guidance(audio=4.5)),
)
