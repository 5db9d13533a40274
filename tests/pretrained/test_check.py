"""``python -m tm_jax.pretrained check`` on good and bad folders: one line or one sentence each."""

import json
import re

import numpy as np
import pytest

from tests.pretrained.test_load import CASES, CONFIG_JSON, OLD_SPEECH, tensors_of, write
from tm_jax.models.clip import CLIPConfig
from tm_jax.models.dit_config import DiTConfig
from tm_jax.models.umt5 import UMT5Config
from tm_jax.models.vae_config import VAEConfig
from tm_jax.models.wav2vec2 import Wav2Vec2Config
from tm_jax.pretrained.__main__ import main
from tm_jax.pretrained.check import title


def told(capsys, *source) -> tuple[int, str, str]:
    """The exit status, what was printed and what was complained of."""
    status = main(["check", *map(str, source)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def transformer(tmp_path, rng):
    """A complete transformer in three shards."""
    return write(tmp_path / "transformer", tensors_of("dit", rng)[0], CONFIG_JSON["dit"], shards=3)


@pytest.mark.parametrize("case", CASES)
def test_it_says_what_a_folder_holds(case, tmp_path, rng, capsys):
    tensors, _ = tensors_of(case, rng, np.float16)
    write(tmp_path, tensors, CONFIG_JSON[case], shards=2)
    status, out, err = told(capsys, tmp_path)
    assert (status, err) == (0, "")
    layout = {"dit": "diffusers", "release": "original", "vae": "diffusers"}.get(case, "transformers")
    for part in (
        CASES[case][0],
        f"{layout} layout",
        "F16",
        "2 files",
        f"{len(tensors):,} tensors",
        "complete",
    ):
        assert part in out


def test_a_pipeline_is_told_part_by_part(transformer, rng, capsys):
    root = transformer.parent
    write(root / "vae", tensors_of("vae", rng)[0], CONFIG_JSON["vae"])
    announced = {"transformer": ["diffusers", "x"], "vae": ["diffusers", "x"], "image_encoder": [None, None]}
    (root / "model_index.json").write_text(json.dumps(announced))
    status, out, err = told(capsys, root)
    assert status == 0 and len(out.splitlines()) == 2
    announced["text_encoder"] = ["transformers", "UMT5EncoderModel"]
    (root / "model_index.json").write_text(json.dumps(announced))
    status, out, err = told(capsys, root)
    assert status == 2 and len(out.splitlines()) == 2
    assert err.count("\n") == 1 and "text_encoder does not exist" in err


def test_the_published_sizes_have_names():
    assert title("transformer", DiTConfig()) == "Wan2.1 I2V-14B"
    assert title("vae", VAEConfig()) == "Wan2.1 VAE"
    assert title("text", UMT5Config()) == "UMT5-XXL encoder"
    assert title("image", CLIPConfig()) == "CLIP ViT-H/14 vision"
    assert title("speech", Wav2Vec2Config()) == "wav2vec2-base"


def test_old_spelling_with_recognition_head(tmp_path, rng, capsys):
    tensors, _ = tensors_of("speech", rng)
    assert OLD_SPEECH[0] in tensors
    tensors["lm_head.weight"] = np.zeros((5, 16), np.float32)
    del tensors["wav2vec2.masked_spec_embed"]
    status, out, _ = told(capsys, write(tmp_path, tensors, CONFIG_JSON["speech"]))
    assert status == 0 and "speech" in out


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def damage(folder, kind):
    """Spoils a good folder in one way."""
    first = sorted(folder.glob("*.safetensors"))[0]
    if kind == "missing shard":
        first.unlink()
    elif kind == "truncated":
        cut(first, first.stat().st_size - 10)
    elif kind == "truncated header":
        cut(first, 60)
    elif kind == "no bytes":
        cut(first, 0)
    elif kind == "corrupt header":
        content = bytearray(first.read_bytes())
        content[8:20] = b"\xff" * 12
        first.write_bytes(content)
    elif kind == "pickle by another name":
        first.write_bytes(b"PK\x03\x04" + b"0" * 100)
    elif kind == "git lfs pointer":
        first.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "another size":
        (folder / "config.json").write_text(json.dumps({**CONFIG_JSON["dit"], "num_layers": 5}))
    elif kind == "broken config":
        (folder / "config.json").write_text("{")
    elif kind == "empty":
        for path in folder.iterdir():
            path.unlink()
    elif kind == "pickles":
        for path in folder.iterdir():
            path.unlink()
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    elif kind == "another kind":
        for path in folder.iterdir():
            path.unlink()
        (folder / "notes.txt").write_text("no weights")


FAULTS = {
    "missing shard": "lacks 1 of the 3 files .*00001-of-00003",
    "truncated": "is truncated: .* download it again",
    "truncated header": "cut off inside its header",
    "no bytes": "does not begin with a safetensors header",
    "corrupt header": "header that is not JSON",
    "pickle by another name": "is a PyTorch pickle, which can run any code",
    "git lfs pointer": "Git LFS pointer",
    "another size": r"missing blocks\.\{3–4\}\.attn1\.to_q\.weight",
    "broken config": "config.json is not readable JSON",
    "empty": "is empty; download the model into it",
    "pickles": "pytorch_model.bin is a PyTorch pickle",
    "another kind": "holds no safetensors file",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_bad_folders_are_one_sentence_and_status_2(kind, transformer, capsys):
    damage(transformer, kind)
    status, out, err = told(capsys, transformer)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and "Traceback" not in err
    assert str(transformer) in err and re.search(FAULTS[kind], err), err


def test_foreign_weights_and_wrong_paths(tmp_path, capsys):
    write(tmp_path / "other", {"layer.weight": np.zeros(2, np.float32)}, {})
    status, _, err = told(capsys, tmp_path / "other")
    assert status == 2 and "of no model that is known here (such as layer.weight)" in err
    (tmp_path / "model.pth").write_bytes(b"\x80\x02")
    assert "is a PyTorch pickle" in told(capsys, tmp_path / "model.pth")[2]
    assert "does not exist" in told(capsys, tmp_path / "nowhere")[2]
    write(tmp_path / "two", {"a": np.zeros(2, np.float32)}, {}, stem="one")
    write(tmp_path / "two", {"a": np.zeros(2, np.float32)}, {}, stem="other")
    assert (
        "several safetensors files and no index (one.safetensors, other.safetensors)"
        in told(capsys, tmp_path / "two")[2]
    )
