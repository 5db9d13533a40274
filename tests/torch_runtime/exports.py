"""Tiny students of both kinds as checkpoints: of our own small world, and of Wan's form with its encoders."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from tests.audio.test_voice_activity import voice
from tests.pretrained.test_load import CONFIG_JSON, SPEECH_SMALL, write
from tests.streaming.test_full_size import CLIP, SIZE, STUDENT, vae_json
from tests.streaming.tiny import DIT_CONFIG, VAE_CONFIG, _random, models
from tm_jax.config import to_json
from tm_jax.diffusion.schedule import RolloutConfig, Schedule
from tm_jax.export.source import Source, find_source
from tm_jax.models.clip import CLIPVision
from tm_jax.models.dit import DiT
from tm_jax.models.vae import VAE
from tm_jax.models.viseme_config import VisemeConfig
from tm_jax.models.visemes import VisemeEncoder
from tm_jax.models.wav2vec2 import Wav2Vec2
from tm_jax.pretrained.clip import clip_names
from tm_jax.pretrained.names import dump
from tm_jax.pretrained.prompts import Prompt, save_prompt
from tm_jax.pretrained.wan_vae import wan_vae_names
from tm_jax.pretrained.wav2vec2 import wav2vec2_names
from tm_jax.pretrained.weights import save_model

HEARING = dataclasses.replace(DIT_CONFIG, audio_width=12, audio_eps=0.1)
VISEMES = VisemeConfig(width=16, dilations=(1, 3), outputs=12)
FACE_BOX = (4, 8, 12, 20)


@functools.cache
def small_student() -> DiT:
    """The student of the small world, which hears through a viseme encoder."""
    return _random(DiT, HEARING, 1)


@functools.cache
def wan_student() -> DiT:
    """A student of Wan's form."""
    return _random(DiT, STUDENT, 4)


def rollout(chunk: int, steps: int) -> dict:
    """What a weights file says of its rollout."""
    return {"rollout": to_json(RolloutConfig(chunk, steps, Schedule(shift=3.0)))}


def small_checkpoint(folder: Path, chunk: int = 3, steps: int = 2) -> Source:
    """The small world's student, VAE and viseme encoder in a folder."""
    save_model(folder / "student.safetensors", small_student(), HEARING, rollout(chunk, steps))
    save_model(folder / "vae.safetensors", models()[0], VAE_CONFIG)
    save_model(folder / "visemes.safetensors", _random(VisemeEncoder, VISEMES, 5), VISEMES)
    return find_source(folder, parts=folder)


def many_headed_checkpoint(folder: Path) -> Source:
    """The same with four heads, which as many ranks can share."""
    source = small_checkpoint(folder)
    config = dataclasses.replace(HEARING, heads=4)
    save_model(source.student_path, _random(DiT, config, 1), config, rollout(3, 2))
    return find_source(folder, parts=folder)


def wan_checkpoint(folder: Path, chunk: int = 3, steps: int = 2) -> Source:
    """A student of Wan's form in a folder, with public VAE, CLIP and wav2vec2 and an embedded prompt."""
    save_model(folder / "student.safetensors", wan_student(), STUDENT, rollout(chunk, steps))
    image_json = {**CONFIG_JSON["clip"], "hidden_size": CLIP.width}
    vae, clip = _random(VAE, VAE_CONFIG, 0), _random(CLIPVision, CLIP, 1)
    speech = _random(Wav2Vec2, SPEECH_SMALL, 3)
    write(folder / "vae", dump(vae, wan_vae_names(VAE_CONFIG)), vae_json())
    write(folder / "image_encoder", dump(clip, clip_names()), image_json, stem="model")
    write(folder / "speech_encoder", dump(speech, wav2vec2_names()), CONFIG_JSON["speech"], stem="model")
    embedding = np.random.default_rng(6).standard_normal((6, STUDENT.text_width)).astype(np.float32)
    save_prompt(folder / "prompt.safetensors", Prompt("A person is talking.", embedding))
    return find_source(folder, parts=folder, size=SIZE)


def inputs(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A picture and some speech."""
    picture = np.random.default_rng(7).integers(0, 256, (*size, 3)).astype(np.uint8)
    return picture, voice(3.0)
