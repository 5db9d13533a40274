"""The tiny world's first teacher, which learns to draw: a bidirectional DiT on the latents of tiny_vae.

    python train.py tiny_base            needs runs/tiny_vae; writes runs/tiny_base/weights.safetensors

It is to tiny_teacher what Wan2.1 is to the full one.  It hears log-mel and learns little from it: after
3,000 steps the mouth follows the voice with a correlation of 0.62.
"""

from pathlib import Path

from configs.tiny_vae import Z
from tm_jax.data.encoded_videos import EncodedConfig
from tm_jax.data.latent_clips import ClipConfig
from tm_jax.diffusion.flow import Schedule
from tm_jax.diffusion.sampler import Guidance, SamplerConfig
from tm_jax.models.dit import DiTConfig
from tm_jax.models.log_mel import LogMel
from tm_jax.training.flow_matching import FlowMatchingLoss
from tm_jax.training.loop import LoopConfig
from tm_jax.training.optim import OptimConfig
from tm_jax.training.teacher_phase import TeacherExperiment

SCHEDULE = Schedule(shift=3.0)
CLIP = ClipConfig(chunks=4, image_patch=2, text_length=4, text_width=16)
VIDEOS = EncodedConfig(count=320, seconds=5.64, reference_frames=CLIP.frames)

MODEL = DiTConfig(
    width=192,
    ffn=512,
    heads=4,
    layers=5,
    patch=(1, 2, 2),
    in_channels=2 * Z + 4,
    out_channels=Z,
    text_width=16,
    text_length=4,
    image_width=Z * CLIP.image_patch**2,
    image_length=64,
    audio_width=LogMel().token_width,
    audio_dim=128,
    audio_left=CLIP.audio_left,
    audio_lookahead=CLIP.audio_lookahead,
    time_frequencies=64,
    trained_frames=CLIP.frames,
    dtype="float32",
    remat=False,
    attention="blocked",
)

PRESET = TeacherExperiment(
    loop=LoopConfig(name="tiny_base", steps=3000, batch_size=4, checkpoint_every=500, preview_every=1000),
    model=MODEL,
    vae=Path("runs/tiny_vae/weights.safetensors"),
    optim=OptimConfig(
        name="muon", lr=2e-3, warmup_steps=50, schedule="cosine", decay_steps=2950, lr_end=5e-5, clip=1.0
    ),
    loss=FlowMatchingLoss(schedule=SCHEDULE, face=1.5, mouth=4.0, drop_text=0.0),
    clip=CLIP,
    videos=VIDEOS,
    ema=0.998,
    sampler=SamplerConfig(steps=20, schedule=SCHEDULE, guidance=Guidance(audio=1.5)),
)
