"""The teacher of wan14b_teacher, which begins hearing by FantasyTalking's audio weights: 17.24 B parameters.

    python -m tm_jax.pretrained convert fantasytalking_model.ckpt --to fantasytalking.safetensors
    python train.py wan14b_fantasytalking_teacher --init-from Wan-AI/Wan2.1-I2V-14B-480P-Diffusers
        --init-audio fantasytalking.safetensors

Its audio module has the sizes of those weights: 2,048 channels and windows of 15 tokens, two of which come
after the latent frame that hears them (40 ms).  To distil it give wan14b_student the same: --model.audio-dim
2048 --model.audio-left 5 --model.audio-lookahead 2 --model.audio-eps 1e-5, --clip.audio-left and
--clip.audio-lookahead likewise, and --teacher runs/wan14b_fantasytalking_teacher/weights.safetensors.
"""

import dataclasses

from configs.wan14b_teacher import PRESET as SILENT
from tm_jax.pretrained.fantasytalking import EPS, WINDOW

PRESET = dataclasses.replace(
    SILENT,
    loop=dataclasses.replace(SILENT.loop, name="wan14b_fantasytalking_teacher"),
    model=dataclasses.replace(SILENT.model, audio_dim=2048, audio_eps=EPS, **WINDOW),
    clip=dataclasses.replace(SILENT.clip, **WINDOW),
)
