"""The whole road, tiny: public files → teacher → causal student → a streamed video; on eight devices."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file

import infer
from tests.audio.test_voice_activity import voice
from tests.media.test_video import write_sound
from tests.training import tiny_distillation as tiny
from tm_jax.data.encoded_videos import EncodedConfig
from tm_jax.data.latent_clips import EncodedVideo
from tm_jax.data.prepare.shards import to_bytes, write_records
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.media.video import read_frames
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.vae import VAE
from tm_jax.models.vae_config import VAEConfig
from tm_jax.pretrained.names import expected
from tm_jax.pretrained.wan_dit import DIFFUSERS
from tm_jax.pretrained.wan_vae import wan_vae_names
from tm_jax.sharding import MeshConfig
from tm_jax.training.loop import train
from tm_jax.training.release import Arguments, release

MODEL = DiTConfig(
    width=32, ffn=48, heads=2, layers=2, text_width=8, text_length=3, image_width=16, image_length=16,
    audio_width=80, audio_dim=16, audio_lookahead=0, time_frequencies=16, trained_frames=3, dtype="float32",
    remat="none",
)  # fmt: skip
"""36 channels in, 16 out, patches of 2×2: Wan's form, on latents of 4×4."""
VAE_CONFIG = VAEConfig(base_dim=4)
MESH = MeshConfig(data=2, fsdp=2, tensor=2)


@pytest.fixture(autouse=True)
def quick_compiling():
    """XLA without its optimisations: compiling is what this test would spend its time on."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def public(folder: Path, model, config, names, about: dict, rng) -> None:
    """Random weights under a public model's names."""
    folder.mkdir(parents=True)
    abstract = jax.eval_shape(lambda: model(config, rngs=nnx.Rngs(0)))
    shapes = expected(abstract, names)
    values = {
        key: (rng.standard_normal(shape) / max(1, np.prod(shape[1:])) ** 0.5).astype(np.float32)
        for key, shape in shapes.items()
    }
    save_file(values, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(about))


def prepared(folder: Path, rng) -> None:
    """Eight clips of random latents, as ``data.prepare`` leaves them."""
    made = [
        EncodedVideo(
            latents=rng.normal(size=(6, 4, 4, 16)).astype(np.float16),
            reference=rng.normal(size=(3, 4, 4, 16)).astype(np.float16),
            audio_tokens=rng.normal(size=(48, 80)).astype(np.float16),
            mode=np.ones(6, np.int32),
            face_mask=np.ones((4, 4), np.float32),
        )
        for _ in range(8)
    ]
    facts = {
        "reference_frames": 3, "latent_channels": 16, "audio_width": 80, "image_width": None, "text_width": 8,
    }  # fmt: skip
    (folder / "reports").mkdir(parents=True)
    (folder / "prepare.json").write_text(json.dumps({"facts": facts}))
    entries = [{"split": "train", "clips": [{"reason": None, "latents": 6}]} for _ in made]
    (folder / "reports" / "00000-of-00001.json").write_text(json.dumps({"videos": entries}))
    write_records(folder / "shards" / "00000-of-00001.array_record", [to_bytes(video) for video in made])


def run(experiment, folder: Path, steps: int) -> Path:
    """Trains; returns the weights."""
    loop = dataclasses.replace(experiment.loop, run_dir=folder, steps=steps, mesh=MESH)
    experiment = dataclasses.replace(experiment, loop=loop)
    train(experiment.build(), loop, experiment)
    return folder / "weights.safetensors"


def test_from_public_files_to_a_streamed_video(tmp_path, rng, monkeypatch, capsys):
    wan, clips = tmp_path / "wan", tmp_path / "clips"
    silent = dataclasses.replace(MODEL, audio_dim=0)
    about = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
    public(wan / "transformer", DiT, silent, DIFFUSERS, about, rng)
    public(wan / "vae", VAE, VAE_CONFIG, wan_vae_names(VAE_CONFIG), {"base_dim": 4, "z_dim": 16}, rng)
    prepared(clips, rng)

    common = {"model": MODEL, "vae": wan, "videos": EncodedConfig(size=32, reference_frames=3)}
    teacher = dataclasses.replace(tiny.teacher(clips), **common, init_from=str(wan))
    taught = run(teacher, tmp_path / "teacher", 1)
    assert taught.exists()
    student = dataclasses.replace(
        tiny.student(clips),
        **common,
        teacher=taught.parent,
        rollout=RolloutConfig(chunk=1, steps=1),
        long_chunks=4,
    )
    distilled = run(student, tmp_path / "student", 2)

    nothing = tmp_path / "nothing"
    shipped = tmp_path / "weights"
    release(Arguments(vae=wan, reader=nothing, visemes=nothing, student=distilled, out=shipped))
    Image.fromarray(rng.integers(0, 256, (40, 30, 3)).astype(np.uint8)).save(tmp_path / "me.png")
    write_sound(tmp_path / "hi.wav", voice(0.6)[None], 16_000, "pcm_s16le", "mono")
    flags = {
        "image": tmp_path / "me.png", "audio": tmp_path / "hi.wav", "out": tmp_path / "talk.mp4",
        "weights": shipped, "wan": wan, "size": 32,
    }  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["infer.py", *(f"--{k}={v}" for k, v in flags.items())])
    assert infer.main() == 0, capsys.readouterr().err
    assert np.stack(list(read_frames(tmp_path / "talk.mp4"))).shape == (15, 32, 32, 3)
