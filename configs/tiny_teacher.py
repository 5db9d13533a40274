"""The tiny world's teacher: a bidirectional, audio-conditioned DiT on the latents of tiny_vae.

    python train.py tiny_teacher         needs runs/tiny_vae and runs/tiny_visemes;
                                         writes runs/tiny_teacher/weights.safetensors

Two things differ from the full size, because 320 videos don't teach 3.5 M parameters what 14 B know when they
begin: the condition holds the picture, still, in every frame, and the network predicts what differs from it.
"""

from pathlib import Path

from configs.tiny_vae import Z
from tm_jax.data.encoded_videos import EncodedConfig
from tm_jax.data.latent_clips import ClipConfig
from tm_jax.diffusion.sampler import Guidance, SamplerConfig
from tm_jax.diffusion.schedule import Schedule
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.viseme_config import VisemeConfig
from tm_jax.training.flow_matching import FlowMatchingLoss
from tm_jax.training.loop_config import LoopConfig
from tm_jax.training.optim import OptimConfig
from tm_jax.training.teacher_phase import TeacherExperiment

STEPS = 2400
SCHEDULE = Schedule(shift=3.0)
CLIP = ClipConfig(chunks=4, image_patch=2, text_length=4, text_width=16)
VIDEOS = EncodedConfig(count=320, seconds=5.64, reference_frames=CLIP.frames, still_condition=True)

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
    audio_width=VisemeConfig().outputs,
    audio_dim=128,
    audio_left=CLIP.audio_left,
    audio_lookahead=CLIP.audio_lookahead,
    time_frequencies=64,
    trained_frames=CLIP.frames,
    still_condition=True,
    predicts="change",
    change_scale=0.45,
    dtype="float32",
    remat="products",
)

PRESET = TeacherExperiment(
    loop=LoopConfig(name="tiny_teacher", steps=STEPS, batch_size=4, checkpoint_every=200, preview_every=600),
    model=MODEL,
    vae=Path("runs/tiny_vae/weights.safetensors"),
    visemes=Path("runs/tiny_visemes/weights.safetensors"),
    optim=OptimConfig(
        name="muon",
        lr=2e-3,
        warmup_steps=50,
        schedule="cosine",
        decay_steps=STEPS - 50,
        lr_end=3e-5,
        clip=1.0,
    ),
    loss=FlowMatchingLoss(schedule=SCHEDULE, face=2.0, mouth=6.0, low=0.5, drop_text=0.0),
    clip=CLIP,
    videos=VIDEOS,
    ema=0.998,
    sampler=SamplerConfig(steps=20, schedule=SCHEDULE, guidance=Guidance(audio=1.5)),
)
