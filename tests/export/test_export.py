"""An export holds the whole student under Wan's names; what is wrong with one is told in a sentence."""

import json
import os
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.torch_runtime import exports
from tm_jax.errors import InputError
from tm_jax.export.__main__ import main
from tm_jax.export.shards import of_array, write_shards
from tm_jax.export.source import student_file
from tm_jax.export.write import matrices, write_export
from tm_jax.models.visemes import VisemeEncoder
from tm_jax.pretrained.files import open_checkpoint
from tm_jax.pretrained.layouts import load_public
from tm_jax.pretrained.names import load, paths
from tm_jax.pretrained.visemes import VISEMES
from tm_jax.torch_runtime import devices
from tm_jax.torch_runtime.engine import load_engine
from tm_jax.torch_runtime.export_format import read_config
from tm_jax.torch_runtime.fp8 import quantise_rows


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan")
    source = exports.wan_checkpoint(folder / "checkpoint")
    write_export(source, folder / "export", "f32")
    return source, folder / "export"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    source = exports.small_checkpoint(folder / "checkpoint")
    write_export(source, folder / "export", "f32")
    return source, folder / "export"


def same(one, other) -> bool:
    ours, theirs = paths(one), paths(other)
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[name][...], theirs[name][...]) for name in ours
    )


def test_import_gives_the_identical_tree(wan, small):
    for source, folder, made in ((*wan, exports.wan_student()), (*small, exports.small_student())):
        again, _ = load_public(folder / "transformer", "transformer", source.student, progress=False)
        assert same(made, again)
        assert same(source.load_vae(), load_public(folder / "vae", "vae", progress=False)[0])
    source, folder = wan
    assert same(
        source.load_picture_encoder(), load_public(folder / "image_encoder", "image", progress=False)[0]
    )
    assert same(source.load_speech(), load_public(folder / "speech_encoder", "speech", progress=False)[0])
    source, folder = small
    abstract = jax.eval_shape(source.visemes)
    assert isinstance(abstract, VisemeEncoder)
    assert same(source.visemes(), load(abstract, load_file(folder / "visemes.safetensors"), VISEMES))


def test_names_are_those_of_the_release(wan):
    names = set(open_checkpoint(wan[1] / "transformer").tensors)
    assert {"blocks.1.self_attn.q.weight", "blocks.0.cross_attn.k_img.bias", "head.modulation"} <= names
    assert {"blocks.0.cross_attn.v_audio.weight", "audio_emb.proj.0.weight", "mode_emb"} <= names
    stated = json.loads((wan[1] / "transformer" / "config.json").read_text())
    assert stated["dim"] == 32 and stated["model_type"] == "i2v"


def test_shards_hold_everything_once_and_little_at_a_time(tmp_path):
    arrays = {f"t{i}": np.full((4, 8), i, np.float32) for i in range(7)}
    asked, open_now = [], []

    def tensor(name, array):
        made = of_array(name, array)
        return made.__class__(name, made.dtype, made.shape, lambda: asked.append(name) or array)

    files = write_shards(tmp_path, "m", (tensor(*item) for item in arrays.items()), shard_bytes=300)
    assert asked == list(arrays) and not open_now and len(files) == 4
    again = open_checkpoint(tmp_path)
    assert set(again.tensors) == set(arrays) and again.nbytes == 7 * 128
    for path in files:
        for name, value in load_file(path).items():
            np.testing.assert_array_equal(value, arrays[name])


def test_lower_precisions_hold_what_they_say(small, tmp_path):
    source, whole = small[0], load_file(small[1] / "transformer" / "diffusion_pytorch_model.safetensors")
    keep = frozenset({"blocks.1.outer"})
    for dtype in ("bf16", "fp8"):
        write_export(source, tmp_path / dtype, dtype, keep)
        stored = open_checkpoint(tmp_path / dtype / "transformer").tensors
        exact = {"blocks.0.modulation", "head.head.weight", "blocks.0.norm3.weight", "time_embedding.0.bias"}
        assert {stored[name].dtype for name in exact} == {"F32"}
        assert stored["blocks.0.cross_attn.k.weight"].dtype == stored["blocks.1.ffn.2.weight"].dtype == "BF16"
        eighth = {name for name, tensor in stored.items() if tensor.dtype == "F8_E4M3"}
        count = {"bf16": 0, "fp8": len(matrices(source.student)) + 2 * source.student.layers - 1}[dtype]
        assert len(eighth) == count  # q, k and v are three matrices
    name = "blocks.0.ffn.0.weight"
    import torch

    weight, scale = quantise_rows(torch.from_numpy(whole[name]))
    path = next((tmp_path / "fp8" / "transformer").glob("*.safetensors"))
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor(name).float(), weight.float())
        assert torch.equal(file.get_tensor("blocks.0.ffn.0.weight_scale"), scale)
    assert np.dtype(ml_dtypes.float8_e4m3fn).itemsize == 1


def test_the_command_verifies_and_says_so(small, tmp_path, capsys):
    folder = tmp_path / "out"
    flags = [
        str(small[0].student_path.parent),
        "--to",
        str(folder),
        "--parts",
        str(small[0].student_path.parent),
    ]
    assert main([*flags, "--verify", "--chunks", "2"]) == 0
    assert "parity of PyTorch (f32) with JAX (f32): passed" in capsys.readouterr().out
    report = json.loads((folder / "report.json").read_text())
    assert report["passed"] and len(report["chunks"]) == 2 and (folder / "report.txt").is_file()
    # Another export takes the place of the old one, and of nothing else.
    assert main([*flags, "--dtype", "bf16"]) == 0 and not (folder / "report.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for more, sentence in [
        (["--to", str(tmp_path / "mine")], "exists and is no export"),
        (["--keep", "inner,sideways"], "--keep sideways: no matrix is called so"),
        (["--chunks", "0"], "--chunks 0: compare at least 1"),
        (["--dtyp", "f32"], "did you mean --dtype?"),
    ]:
        assert main([*flags, *more]) == 2
        told = capsys.readouterr().err
        assert told.startswith("tm_jax.export: ") and sentence in told and told.count("\n") == 1
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_what_holds_no_student_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no student"):
        student_file(tmp_path)
    (tmp_path / "weights.safetensors").write_text("x")
    assert student_file(tmp_path).name == "weights.safetensors"


def test_a_foreign_or_damaged_export_is_told(small, tmp_path):
    folder = shutil.copytree(small[1], tmp_path / "export")
    config = json.loads((folder / "config.json").read_text())

    def fails(sentence, **changes):
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(InputError, match=sentence):
            load_engine(folder, dit_device="cpu")

    fails("is an export of version 2, this program reads 1", version=2)
    fails("is no export of tm_jax", format="other")
    fails("ExportConfig has no field speed", speed=3)
    fails("reads clean keys and values", rollout={**config["rollout"], "clean_kv": True})
    fails("of different exports", student={**config["student"], "width": 64})
    fails("lacks the tensor blocks.2", student={**config["student"], "layers": 3})
    fails("has no place for", student={**config["student"], "layers": 1})
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="not readable JSON"):
        read_config(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"is no export, for it has no config.json"):
        read_config(folder)
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="truncated or damaged"):
        load_engine(folder, dit_device="cpu")
    path.unlink()
    with pytest.raises(InputError, match="lacks"):
        load_engine(folder, dit_device="cpu")


def test_devices_that_do_not_exist_or_are_too_small_are_told(small, monkeypatch):
    with pytest.raises(InputError, match=r"--dit-devices cuda:7: this machine has cpu"):
        load_engine(small[1], dit_device="cuda:7")
    with pytest.raises(InputError, match=r"--vae-devices gpu: this machine has cpu"):
        load_engine(small[1], dit_device="cpu", vae_device="gpu")
    monkeypatch.setattr(devices, "known_devices", lambda: ["cpu", "cuda:0"])
    monkeypatch.setattr(devices.torch.cuda, "mem_get_info", lambda where: (10**9, 80 * 10**9))
    monkeypatch.setattr(devices.torch.cuda, "get_device_name", lambda where: "H100")
    with pytest.raises(InputError, match=r"cuda:0 \(H100\) has 1.0 GB free, the model needs 1.\d GB"):
        load_engine(small[1], dit_device="cuda:0")


def test_a_run_that_cannot_be_written_leaves_the_old_export(small, tmp_path, monkeypatch):
    folder = tmp_path / "export"
    write_export(small[0], folder, "f32")
    before = {path: path.stat().st_size for path in folder.rglob("*")}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tm_jax.export.write.write_file", full)
    with pytest.raises(InputError, match=r"could not be written to .*No space left"):
        write_export(small[0], folder, "bf16")
    assert {path: path.stat().st_size for path in folder.rglob("*")} == before
    assert os.listdir(tmp_path) == ["export"]
    save_file({}, tmp_path / "x.safetensors")
