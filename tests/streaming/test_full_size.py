"""A student of Wan's form streamed whole: VAE, CLIP, UMT5 and wav2vec2 as public files, tiny and random."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from PIL import Image
from safetensors.numpy import save_file

import infer
from tests.audio.test_voice_activity import voice
from tests.media.test_video import write_sound
from tests.pretrained.test_load import CLIP_SMALL, CONFIG_JSON, SPEECH_SMALL, UMT5_SMALL, write
from tests.streaming.tiny import ROLLOUT, VAE_CONFIG, _random
from tm_jax.audio.chunking import AudioChunker
from tm_jax.config import to_json
from tm_jax.diffusion.conditions import face_mask, reference_latents
from tm_jax.errors import InputError
from tm_jax.media.video import read_frames
from tm_jax.models.audio_adapter import audio_windows
from tm_jax.models.clip import CLIPVision, preprocess
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.umt5 import UMT5
from tm_jax.models.vae import VAE
from tm_jax.models.wav2vec2 import Wav2Vec2
from tm_jax.pretrained.__main__ import main as pretrained
from tm_jax.pretrained.clip import clip_names
from tm_jax.pretrained.names import dump, paths
from tm_jax.pretrained.prompts import DEFAULT_PROMPT, Prompt, load_prompt, save_prompt
from tm_jax.pretrained.sources import kernels_in, load_by_slices
from tm_jax.pretrained.tokenizer import load_tokenizer
from tm_jax.pretrained.umt5 import umt5_names
from tm_jax.pretrained.wan_vae import wan_vae_names
from tm_jax.pretrained.wav2vec2 import wav2vec2_names
from tm_jax.pretrained.weights import load_model, save_model
from tm_jax.streaming.parts import load_engine, parse_size

STUDENT = DiTConfig(
    width=32, ffn=32, heads=2, layers=2, patch=(1, 2, 2), in_channels=12, out_channels=4,
    text_width=16, text_length=10, image_width=20, image_length=CLIP_SMALL.tokens, audio_width=16,
    audio_dim=16, time_frequencies=16,
)  # fmt: skip
CLIP = dataclasses.replace(CLIP_SMALL, width=20)
SIZE = (16, 32)


def vae_json():
    """The VAE's config as diffusers writes it."""
    same = ("base_dim", "z_dim", "dim_mult", "num_res_blocks", "patch_size", "latents_mean", "latents_std")
    names = {name: name for name in same}
    names |= {"temperal_downsample": "temporal_downsample", "is_residual": "residual"}
    return {theirs: to_json(getattr(VAE_CONFIG, ours)) for theirs, ours in names.items()}


def save_tokenizer(folder: Path):
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁A", "▁person", "▁is", "▁talking", ".", "▁cat"]
    made = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2)
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))


@pytest.fixture(autouse=True, scope="module")
def quick_compiling():
    """XLA without its optimisations: compiling is what these tests would spend their time on."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def parts():
    """The models as we hold them."""
    return {
        "vae": _random(VAE, VAE_CONFIG, 0),
        "image": _random(CLIPVision, CLIP, 1),
        "text": _random(UMT5, UMT5_SMALL, 2),
        "speech": _random(Wav2Vec2, SPEECH_SMALL, 3),
        "student": _random(DiT, STUDENT, 4),
    }


@pytest.fixture(scope="module")
def downloads(parts, tmp_path_factory):
    """A Wan pipeline and a wav2vec2 as they come from the Hub, and a folder with the student alone."""
    root = tmp_path_factory.mktemp("downloads")
    image_json = {**CONFIG_JSON["clip"], "hidden_size": CLIP.width}
    write(root / "wan" / "vae", dump(parts["vae"], wan_vae_names(VAE_CONFIG)), vae_json())
    write(root / "wan" / "image_encoder", dump(parts["image"], clip_names()), image_json, stem="model")
    write(root / "wan" / "text_encoder", dump(parts["text"], umt5_names()), CONFIG_JSON["umt5"], stem="model")
    write(root / "wav2vec2", dump(parts["speech"], wav2vec2_names()), CONFIG_JSON["speech"], stem="model")
    save_tokenizer(root / "wan" / "tokenizer")
    meta = {"rollout": to_json(ROLLOUT)}
    save_model(root / "weights" / "student.safetensors", parts["student"], STUDENT, meta)
    return root


@pytest.fixture(scope="module")
def prompt(downloads):
    """The default prompt's embedding beside the student, and the text encoder put out of reach."""
    path = downloads / "weights" / "prompt.safetensors"
    assert pretrained(["embed-prompt", str(downloads / "wan"), "--out", str(path)]) == 0
    (downloads / "wan" / "text_encoder").rename(downloads / "text_encoder_of_before")
    return load_prompt(path)


@pytest.fixture(scope="module")
def engine(downloads, prompt):
    weights, wan, speech = (downloads / name for name in ("weights", "wan", "wav2vec2"))
    return load_engine(weights, wan=str(wan), speech=str(speech), size=SIZE)


def picture(rng):
    return rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def test_the_prompt_s_embedding_is_the_encoder_s(parts, downloads, prompt, relative_error):
    ids, mask = load_tokenizer(downloads / "wan")([DEFAULT_PROMPT])
    whole = parts["text"].embed_prompt(jnp.asarray(ids), jnp.asarray(mask))[0]
    assert prompt.text == DEFAULT_PROMPT and len(prompt.embedding) == mask.sum() == 6
    # The encoder computes in bfloat16, which rounds differently at another length.
    assert relative_error(prompt.embedding, whole[:6]) < 0.02
    np.testing.assert_array_equal(prompt.tokens(10)[6:], 0)


def test_the_reference_is_what_each_encoder_makes_of_the_picture(engine, parts, prompt, rng, relative_error):
    photo = picture(rng)
    told = engine.reference(photo, (4, 8, 12, 20)).content.conditioning
    pixels = photo[None].astype(np.float32) / 127.5 - 1
    tokens = parts["image"](preprocess(pixels, CLIP.image_size))
    assert relative_error(told.image_tokens, tokens) < 1e-5
    np.testing.assert_array_equal(told.text_tokens[0], prompt.tokens(10))
    latents = jax.jit(lambda vae, x: reference_latents(vae, x, 21, still=False))(parts["vae"], pixels)
    assert relative_error(told.condition[..., 4:], latents) < 1e-5
    np.testing.assert_array_equal(
        told.face_mask, face_mask(jnp.array([[4, 8, 12, 20]]), SIZE, (2, 4)), "only the face's cells"
    )
    assert 0 < told.face_mask.sum() < told.face_mask.size


def test_80_ms_of_sound_are_waited_for_and_no_more(engine, rng):
    """Chunk 0 is tokens 0 … 17: it is there with token 21, and hears what the whole recording says."""
    front_end, config = engine.backend.front_end, engine.backend.student.config
    assert (front_end.config.lookahead, config.audio_lookahead) == (4, 0)
    sound = rng.standard_normal(320 * 30).astype(np.float32)
    chunker, blocks = AudioChunker(front_end, left=config.audio_left), iter(np.split(sound, 30))
    while not chunker.ready():
        chunker.push(next(blocks))
    assert chunker.waiting == (18 + 4) * 320
    first = chunker.take()
    windows = audio_windows(jnp.asarray(front_end.tokens(sound))[None], jnp.arange(3), 8, 0)[0]
    np.testing.assert_allclose(first.windows, windows, atol=1e-5)


def test_the_student_s_kernels_in_bfloat16_change_no_bit(engine, downloads, rng):
    path = downloads / "weights" / "student.safetensors"
    whole = load_model(path, DiT, DiTConfig)
    small = load_by_slices(path, DiT, DiTConfig, adapt=kernels_in("bfloat16"), progress=False)
    dtypes = {name: variable.dtype for name, variable in paths(small).items()}
    assert dtypes["blocks.feed_forward.inner.kernel"] == jnp.bfloat16
    assert dtypes["head.kernel"] == dtypes["blocks.modulation"] == jnp.float32
    told = engine.reference(picture(rng)).content.conditioning
    text = jax.jit(lambda model, told: model.condition(told))
    for ours, theirs in zip(
        jax.tree.leaves(text(whole, told)), jax.tree.leaves(text(small, told)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(InputError, match="holds a DiT, not a VAE"):
        load_by_slices(path, VAE, type(VAE_CONFIG))


def run(folder, monkeypatch, capsys, *flags):
    argv = ["infer.py", "--image", str(folder / "me.png"), "--audio", str(folder / "hi.wav")]
    monkeypatch.setattr(sys, "argv", [*argv, "--out", str(folder / "out.mp4"), *flags])
    capsys.readouterr()
    status = infer.main()
    told = capsys.readouterr().err
    return status, told.splitlines()[-1] if told else ""


@pytest.fixture
def files(tmp_path, rng):
    Image.fromarray(rng.integers(0, 256, (60, 90, 3)).astype(np.uint8)).save(tmp_path / "me.png")
    write_sound(tmp_path / "hi.wav", voice(1.2)[None], 16_000, "pcm_s16le", "mono")
    return tmp_path


def test_infer_streams_it_from_a_picture_and_a_voice(downloads, prompt, files, monkeypatch, capsys):
    flags = ["--weights", str(downloads / "weights"), "--wan", str(downloads / "wan"), "--size", "16x32"]
    flags += ["--speech", str(downloads / "wav2vec2")]
    status, _ = run(files, monkeypatch, capsys, *flags, "--face", "0.1,0.2,0.9,0.8")
    assert status == 0
    frames = np.stack(list(read_frames(files / "out.mp4")))
    assert frames.shape == (30, 16, 32, 3) and frames.std() > 1
    for more, sentence in [
        (["--face", "0,0,99,10"], "--face 0,0,99,10 lies outside the picture of 90×60 pixels"),
        (["--size", "20"], "change --size"),
        (["--prompt", "A cat"], "wan is a pipeline without text_encoder/"),
    ]:
        status, told = run(files, monkeypatch, capsys, *flags, *more)
        assert status == 2 and told.startswith("infer.py: ") and sentence in told


def test_what_is_missing_is_told(downloads, files, prompt, monkeypatch, capsys, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "student.safetensors").symlink_to(downloads / "weights" / "student.safetensors")
    save_model(tmp_path / "student.safetensors", _random(DiT, STUDENT, 4), STUDENT)
    status, told = run(files, monkeypatch, capsys, "--weights", str(tmp_path))
    assert status == 2 and "does not say with which steps and chunks it was distilled" in told
    status, told = run(files, monkeypatch, capsys, "--weights", str(weights))
    assert status == 2 and "prompt.safetensors: make it with python -m tm_jax.pretrained embed-prompt" in told
    save_prompt(weights / "prompt.safetensors", prompt)
    status, told = run(files, monkeypatch, capsys, "--weights", str(weights))
    assert status == 2 and "needs vae/ of Wan's pipeline: give its folder or Hub id by --wan" in told
    save_prompt(weights / "prompt.safetensors", Prompt("wide", np.zeros((3, 99), np.float32)))
    status, told = run(files, monkeypatch, capsys, "--weights", str(weights))
    assert status == 2 and "'wide' has 3 tokens of width 99, the student reads up to 10 of width 16" in told


def test_prompt_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="There is no prompt file"):
        load_prompt(tmp_path / "a.safetensors")
    save_file({"a": np.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="is no prompt file"):
        load_prompt(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        load_prompt(tmp_path / "a.safetensors")


def test_sizes_and_refusals():
    assert parse_size("512") == (512, 512) and parse_size("480x832") == (480, 832)
    for text in ("", "0", "4x5x6", "big", "-1"):
        with pytest.raises(InputError, match="is no size"):
            parse_size(text)
