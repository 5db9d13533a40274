"""``check`` names each kind of file that people have for what it is, and says what to do with it."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.pretrained.test_check import told
from tests.pretrained.test_load import CONFIG_JSON, DIT, tensors_of, write
from tm_jax.errors import InputError
from tm_jax.models.dit_config import DiTConfig
from tm_jax.pretrained.layouts import open_public
from tm_jax.pretrained.wan_family import member

SMALL, FIVE = (
    {"width": 1536, "ffn": 8960, "layers": 30, "heads": 12},
    {"width": 3072, "ffn": 14336, "heads": 24},
)
FIVE = {**FIVE, "layers": 30, "out_channels": 48}
T2V = {"in_channels": 16, "has_image": False}
PUBLISHED = {
    "Wan2.1 T2V-14B or Wan2.2 T2V-A14B": (T2V, ""),
    "Wan2.1 I2V-14B": ({}, ""),
    "Wan2.2 I2V-A14B": ({"has_image": False}, ""),
    "Wan2.1 T2V-1.3B": ({**T2V, **SMALL}, ""),
    "Wan2.1-Fun 1.3B-InP": (SMALL, ""),
    "Wan2.1-Fun 14B-Control": ({"in_channels": 48}, ""),
    "Wan2.1-Fun-V1.1 14B-Control": ({"in_channels": 48}, "ref_conv.weight"),
    "Wan2.2-Fun A14B-Control": ({"in_channels": 52, "has_image": False}, "ref_conv.weight"),
    "Wan2.1-Fun-V1.1 1.3B-Control-Camera": ({**SMALL, "in_channels": 32}, "control_adapter.conv.weight"),
    "Wan2.2 TI2V-5B": ({**FIVE, "in_channels": 48, "has_image": False}, ""),
    "Wan2.1 FLF2V-14B": ({}, "img_emb.emb_pos"),
    "Wan2.1 VACE-1.3B": ({**T2V, **SMALL}, "vace_blocks.0.after_proj.weight"),
    "Wan2.2 S2V-14B": (T2V, "casual_audio_encoder.encoder.final_linear.weight"),
    "Wan2.2 Animate-14B": ({}, "face_adapter.fuser_blocks.0.k_norm.weight"),
    "MultiTalk or InfiniteTalk on Wan2.1 I2V-14B": ({}, "blocks.0.audio_cross_attn.q_linear.weight"),
}
RUN = {
    "Wan2.1 T2V-14B or Wan2.2 T2V-A14B",
    "Wan2.1 I2V-14B",
    "Wan2.1 T2V-1.3B",
    "Wan2.1-Fun 1.3B-InP",
    "Wan2.2 TI2V-5B",
}


@pytest.mark.parametrize("title", PUBLISHED)
def test_what_tells_the_published_transformers_apart(title):
    sizes, extra = PUBLISHED[title]
    found = member({extra: (1,)} if extra else {}, DiTConfig(**{"audio_dim": 0, **sizes}))
    assert found.title == title
    assert found.runs == (title in RUN)


def test_a_combination_that_nobody_published_is_told_as_such():
    odd = member({"ref_conv.weight": (1,), "vace_blocks.0.x": (1,)}, DiTConfig(in_channels=20, audio_dim=0))
    assert odd.title.startswith("no published Wan transformer (width 5120, 40 layers, 20 channels in")
    assert "VACE blocks, reference convolution" in odd.title and not odd.runs


def release(rng, **changes):
    """A tiny transformer under the release's keys, whose stored tensors are changed."""
    stored, _ = tensors_of("release", rng, np.float16)
    for key, value in changes.items():
        if value is None:
            stored = {name: tensor for name, tensor in stored.items() if key not in name}
        else:
            stored[key] = value
    return stored


def without_pictures(rng):
    stored = release(rng)
    return {key: value for key, value in stored.items() if "img" not in key}


def test_the_keys_count_where_config_json_speaks_of_pictures(tmp_path, rng, capsys):
    """Wan2.2's I2V says i2v and has no picture tokens; FLF2V says flf2v and has them."""
    source = write(tmp_path / "a14b", without_pictures(rng), {**CONFIG_JSON["release"], "model_type": "i2v"})
    status, out, err = told(capsys, source)
    assert (status, err) == (0, "") and "no picture embedding" in out
    assert "complete, but a form that is not run here (36 channels in, 16 out, no picture embedding)" in out
    with pytest.raises(InputError, match=r"no published Wan transformer .* that form is not run here"):
        open_public(source, "transformer", DIT)
    flf = {**release(rng), "img_emb.emb_pos": np.zeros((1, 514, 8), np.float16)}
    status, out, err = told(
        capsys, write(tmp_path / "flf", flf, {**CONFIG_JSON["release"], "model_type": "flf2v"})
    )
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert "position embedding of two pictures is not read here" in err and "unknown" not in err


def test_an_incomplete_relative_of_i2v_is_not_taken_for_it(tmp_path, rng, capsys):
    stored = release(rng)
    del stored["img_emb.proj.0.weight"]
    _, _, err = told(capsys, write(tmp_path, stored, CONFIG_JSON["release"]))
    assert "missing img_emb.proj.0.weight" in err


LAYER = np.zeros((4, 4), np.float16)
OTHERS = {
    "diffusers' LoRA": (
        {"transformer.blocks.0.attn1.to_q.lora_A.weight": LAYER},
        r"LoRA \(in diffusers' naming\)",
    ),
    "Kohya's LoRA": (
        {"lora_unet_blocks_0_cross_attn_k.lora_down.weight": LAYER},
        r"LoRA \(in Kohya's naming\)",
    ),
    "ComfyUI's LoRA": (
        {"diffusion_model.blocks.0.cross_attn.k.lora_up.weight": LAYER},
        r"LoRA \(in ComfyUI's",
    ),
    "LoKr": ({"lora_unet_blocks_0_ffn_0.lokr_w1": LAYER, "lora_unet_blocks_0_ffn_0.lokr_w2": LAYER}, "LoRA"),
    "full differences": ({"diffusion_model.patch_embedding.diff": LAYER}, "LoRA"),
    "MultiTalk": (
        {"audio_proj.proj1.weight": LAYER, "blocks.0.audio_cross_attn.q_linear.weight": LAYER},
        "MultiTalk's or InfiniteTalk's audio weights.*--init-audio",
    ),
    "VACE alone": ({"vace_blocks.0.after_proj.weight": LAYER, "vace_patch_embedding.weight": LAYER}, "VACE"),
    "all in one": (
        {"model.diffusion_model.patch_embedding.weight": LAYER, "vae.conv1.weight": LAYER},
        r"several models in one file \(model.diffusion_model, vae\)",
    ),
    "fp8 with scales": (
        {"blocks.0.self_attn.q.weight": LAYER, "blocks.0.self_attn.q.scale_weight": LAYER},
        "quantised with separate scales",
    ),
    "ComfyUI's new fp8": ({"blocks.0.ffn.0.weight": LAYER, "blocks.0.ffn.0.comfy_quant": LAYER}, "quantised"),
    "preview VAE": ({"encoder.0.weight": LAYER, "decoder.1.weight": LAYER}, "preview VAE"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_safetensors_that_hold_no_model_of_ours(kind, tmp_path, capsys):
    stored, sentence = OTHERS[kind]
    save_file(stored, tmp_path / "file.safetensors")
    status, out, err = told(capsys, tmp_path / "file.safetensors")
    assert (status, out) == (2, "") and err.count("\n") == 1
    with pytest.raises(InputError, match=sentence):
        raise InputError(err)


FILES = {
    "model.gguf": (b"GGUF\x03\x00\x00\x00" + bytes(40), "GGUF"),
    "gguf.safetensors": (b"GGUF\x03\x00\x00\x00" + bytes(40), "GGUF"),
    "model.pth": (b"PK\x03\x04" + bytes(40), "PyTorch pickle.*pretrained convert"),
    "model.ckpt": (b"\x80\x02}q\x00." + bytes(40), "PyTorch pickle.*pretrained convert"),
    "page.safetensors": (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
    "weights.h5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
    "array.npy": (b"\x93NUMPY\x01\x00" + bytes(40), "NumPy"),
    "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "noise.safetensors": (bytes(range(200, 256)), "does not begin with a safetensors header"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_safetensors(name, tmp_path, capsys):
    content, sentence = FILES[name]
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path / name, tmp_path):
        status, out, err = told(capsys, source)
        assert (status, out) == (2, "") and err.count("\n") == 1
        if source.is_file() or name.endswith((".safetensors", ".gguf", ".pth", ".ckpt")):
            with pytest.raises(InputError, match=sentence):
                raise InputError(err)


def test_folders_of_folders_and_what_is_neither(tmp_path, rng, capsys):
    for half in ("high_noise_model", "low_noise_model"):
        write(tmp_path / half, without_pictures(rng), CONFIG_JSON["release"])
    (tmp_path / "Wan2.1_VAE.pth").write_bytes(b"PK\x03\x04" + bytes(40))
    err = told(capsys, tmp_path)[2]
    assert "but high_noise_model, low_noise_model inside it do; name one of them" in err
    assert "neither a file nor a folder" in told(capsys, "/dev/null")[2]


@pytest.mark.parametrize("value", ['"40"', "-1", "1e400", "[2]", "{}", "true", "99999999999999999999999"])
def test_a_number_that_no_model_has_in_config_json(value, tmp_path, rng, capsys):
    stored, _ = tensors_of("release", rng)
    write(tmp_path, stored, {})
    (tmp_path / "config.json").write_text('{"dim": 32, "num_layers": ' + value + "}")
    status, out, err = told(capsys, tmp_path)
    assert (status, out) == (2, "") and err.count("\n") == 1 and "config.json" in err


@pytest.mark.parametrize(
    "content", ['{"weight_map": {"a": null}}', '{"weight_map": {"a": ["x"]}}', "[]", "[" * 9999]
)
def test_an_index_that_names_no_files(content, tmp_path, capsys):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    status, out, err = told(capsys, tmp_path)
    assert (status, out) == (2, "") and err.count("\n") == 1 and "index.json" in err


def test_a_file_of_ours_is_told_as_such(capsys):
    status, out, _ = told(capsys, "tm_jax/weights/student.safetensors")
    assert status == 0 and "DiT, made here (commit " in out and "tm_jax layout" in out


def test_edits_of_a_header_end_in_a_sentence_or_a_model(tmp_path, rng, capsys):
    """Bytes of the header, of its length and of config.json; 2,000 edits and more are run by hand."""
    assert edit_headers(tmp_path, rng, capsys, edits=40) <= {0, 2}


def edit_headers(folder, rng, capsys, edits):
    """The exit statuses of ``check`` on a small checkpoint with one to three bytes of its header changed."""
    stored, _ = tensors_of("umt5", rng, np.float16)
    write(folder, stored, CONFIG_JSON["umt5"], stem="model")
    file, config = folder / "model.safetensors", folder / "config.json"
    whole, stated = file.read_bytes(), json.dumps(CONFIG_JSON["umt5"]).encode()
    header = 8 + int.from_bytes(whole[:8], "little")
    statuses = set()
    for _ in range(edits):
        in_config = rng.random() < 0.2
        content = bytearray(stated if in_config else whole)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(0, len(content) if in_config else header))
            choices = b'0123456789-."{}[]:,\x00\xff aeF' if rng.random() < 0.7 else bytes(range(256))
            content[place] = choices[int(rng.integers(len(choices)))]
        file.write_bytes(whole if in_config else bytes(content))
        config.write_bytes(bytes(content) if in_config else stated)
        status, out, err = told(capsys, folder)
        assert out.count("\n") == (status == 0) and err.count("\n") == (status != 0), err
        statuses.add(status)
    return statuses
