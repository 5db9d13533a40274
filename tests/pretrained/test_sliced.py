"""Weights in slices: what several processes wrote reads like one file."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.training.tiny import CONFIG, random_dit
from tm_jax.errors import InputError
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.pretrained.sliced import index_of, is_sliced
from tm_jax.pretrained.sources import load_by_slices
from tm_jax.pretrained.weights import is_own, load_model, named_leaves, read_header, save_sharded
from tm_jax.sharding import shardings_like


@pytest.fixture(scope="module")
def model():
    return random_dit(jax.random.key(2))


@pytest.fixture
def sliced(model, tmp_path):
    """The weights as two processes would have written them: each parameter cut along its longest axis."""
    save_sharded(tmp_path / "whole.safetensors", model, CONFIG, {"step": 3}, step=3)
    header = read_header(tmp_path / "whole.safetensors")
    files = [{}, {}]
    names, leaves, _ = named_leaves(model)
    for name, leaf in zip(names, map(np.asarray, leaves), strict=True):
        axis = int(np.argmax(leaf.shape))
        half = leaf.shape[axis] // 2
        for part, (start, stop) in enumerate(((0, half), (half, leaf.shape[axis]))):
            cut = np.take(leaf, np.arange(start, stop), axis)
            corner = [start if one == axis else 0 for one in range(leaf.ndim)]
            files[part][f"{name}@{','.join(map(str, corner))}"] = np.ascontiguousarray(cut)
    path = tmp_path / "weights.safetensors"
    weight_map = {}
    for part, content in enumerate(files):
        save_file(content, tmp_path / f"weights.step-3.{part}.safetensors")
        weight_map |= dict.fromkeys(content, f"weights.step-3.{part}.safetensors")
    metadata = {
        "format": "tm_jax",
        "class": "DiT",
        "config": json.dumps(header.config),
        "meta": json.dumps(header.meta),
    }
    shapes = {name: list(leaf.shape) for name, leaf in zip(names, leaves, strict=True)}
    index_of(path).write_text(json.dumps({"metadata": metadata, "shapes": shapes, "weight_map": weight_map}))
    return path


def assert_equal(ours, theirs):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_slices_read_like_one_file(sliced, model, mesh8):
    assert is_sliced(sliced) and is_own(sliced) and read_header(sliced).meta["step"] == 3
    assert_equal(load_model(sliced, DiT, DiTConfig, expect=CONFIG), model)
    shardings = lambda abstract: shardings_like(abstract, mesh8)
    placed = load_by_slices(sliced, DiT, DiTConfig, shardings, progress=False)
    assert_equal(placed, model)
    kernel = placed.blocks.self_attention.query.kernel[...]
    assert kernel.addressable_shards[0].data.shape == (2, 24, 24)


def test_a_sharded_model_of_one_process_is_one_plain_file(model, mesh8, tmp_path, monkeypatch):
    monkeypatch.setattr("tm_jax.pretrained.sliced.PIECE_BYTES", 2048)
    placed = jax.device_put(model, shardings_like(model, mesh8))
    save_sharded(tmp_path / "one.safetensors", placed, CONFIG, {"step": 1}, step=1)
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]
    assert_equal(load_model(tmp_path / "one.safetensors", DiT, DiTConfig), model)


def test_missing_files_and_slices_are_told(sliced):
    part = sliced.with_name("weights.step-3.1.safetensors")
    content = part.read_bytes()
    part.unlink()
    with pytest.raises(InputError, match=r"lies in 2 files and weights\.step-3\.1\.safetensors is missing"):
        load_model(sliced, DiT, DiTConfig)
    part.write_bytes(content)
    index = json.loads(index_of(sliced).read_text())
    index["shapes"]["head.kernel"][0] *= 2
    index_of(sliced).write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"only parts of head\.kernel"):
        load_model(sliced, DiT, DiTConfig)
    index_of(sliced).write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        load_model(sliced, DiT, DiTConfig)
