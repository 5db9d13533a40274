"""Our weights files: a round trip, and one clear sentence for every kind of bad file."""

import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tm_jax.errors import InputError
from tm_jax.pretrained.weights import load_model, named_leaves, read_config, read_header, save_model


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 4
    means: tuple[float, ...] = (0.5, 1.0)


class Net(nnx.Module):
    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        build = lambda key: nnx.Linear(config.width, 3, rngs=nnx.Rngs(key))
        self.blocks = jax.vmap(build)(jax.random.split(rngs.params(), 2))
        self.heads = nnx.List([nnx.Linear(3, 1, rngs=rngs)])


class Other(Net):
    pass


@pytest.fixture
def net(getkey):
    return Net(Config(), rngs=nnx.Rngs(getkey()))


@pytest.fixture
def saved(net, tmp_path):
    path = tmp_path / "deep" / "net.safetensors"
    save_model(path, net, net.config, {"step": 5})
    return path


def rewrite(path, **changes):
    """The file with some tensors replaced (None: removed)."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    arrays = load_file(path) | changes
    save_file({name: a for name, a in arrays.items() if a is not None}, path, metadata=metadata)


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as error:
        load_model(path, Net, Config, **options)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_names_are_dotted_paths(net):
    assert named_leaves(net)[0] == ["blocks.bias", "blocks.kernel", "heads.0.bias", "heads.0.kernel"]


def test_f32_round_trip_is_exact(net, saved):
    loaded = load_model(saved, Net, Config, expect=Config())
    assert loaded.config == net.config
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(net), strict=True):
        np.testing.assert_array_equal(a, b)
    assert read_config(saved, Config) == Config()
    header = read_header(saved)
    assert header.model_class == "Net" and header.meta["step"] == 5
    assert [entry.name for entry in saved.parent.iterdir()] == ["net.safetensors"]


def test_f16_halves_the_file_and_loads_as_f32(net, tmp_path):
    save_model(tmp_path / "half.safetensors", net, net.config, dtype="f16")
    assert load_file(tmp_path / "half.safetensors")["blocks.kernel"].dtype == np.float16
    loaded = load_model(tmp_path / "half.safetensors", Net, Config)
    assert loaded.blocks.kernel[...].dtype == jnp.float32
    np.testing.assert_allclose(loaded.blocks.kernel[...], net.blocks.kernel[...], rtol=1e-3, atol=1e-6)


def test_f16_refuses_what_it_cannot_hold(net, tmp_path):
    big = jax.tree.map(lambda leaf: leaf + 1e5, net)
    with pytest.raises(ValueError, match="exceeds the range of float16"):
        save_model(tmp_path / "half.safetensors", big, net.config, dtype="f16")


def test_loading_computes_no_initial_values(saved):
    class Counting(Net):
        def __init__(self, config, *, rngs):
            assert isinstance(rngs.params(), jax.core.Tracer)
            super().__init__(config, rngs=rngs)

    Counting.__name__ = "Net"
    load_model(saved, Counting, Config)


def test_another_config_names_every_field_that_differs(saved):
    refused(saved, r"width: 4 against 8; means: \[0.5, 1.0\] against \[\]", expect=Config(8, ()))


def test_another_class(saved):
    with pytest.raises(InputError, match="holds a Net, not a Other"):
        load_model(saved, Other, Config)


def test_missing_unknown_and_misshapen_parameters_come_in_one_sentence(saved):
    rewrite(saved, **{"blocks.bias": None, "extra": np.zeros(1), "blocks.kernel": np.zeros((2, 2))})
    refused(saved, r"missing blocks.bias; unknown extra; blocks.kernel has shape \(2, 2\) instead")


def test_nan_is_refused(saved):
    rewrite(saved, **{"blocks.bias": np.full((2, 3), np.nan, np.float32)})
    refused(saved, "NaN or infinite values in blocks.bias")


def test_missing_empty_folder_and_foreign_files(saved, tmp_path):
    refused(tmp_path / "none.safetensors", "no weights file")
    refused(tmp_path, "is a directory")
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    refused(empty, "is empty")
    noise = tmp_path / "noise.safetensors"
    noise.write_bytes(b"no weights at all, " * 20)
    refused(noise, "not a safetensors file")
    noise.write_bytes(b"<html>not found</html>" * 20)
    refused(noise, "is a web page")
    plain = tmp_path / "plain.safetensors"
    save_file({"a": np.zeros(2)}, plain)
    refused(plain, "without tm_jax's config")


@pytest.mark.parametrize("length", [4, 40, -10])
def test_truncated_files(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    refused(saved, "truncated or damaged")


@pytest.mark.parametrize("name", ["model.pt", "model.ckpt", "model.bin", "disguised.safetensors"])
def test_pickles_are_refused_unread(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"weights": [1.0]}))
    refused(path, "PyTorch pickle, which can run any code")


def test_a_config_of_another_version(net, saved):
    arrays = load_file(saved)
    header = {"format": "tm_jax", "class": "Net", "config": json.dumps({"depth": 3}), "meta": "{}"}
    save_file(arrays, saved, metadata=header)
    refused(saved, "does not make a Config: Config has no field depth")


def test_an_unwritable_path(net, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="could not be written"):
        save_model(tmp_path / "file" / "net.safetensors", net, net.config)


def test_a_header_whose_length_looks_like_a_pickle_is_read():
    from tm_jax.pretrained.formats import is_pickle

    assert not is_pickle((0x0480).to_bytes(8, "little") + b"{")
    assert is_pickle(b"\x80\x04\x95\x00\x00\x00\x00\x00\x00")
    assert is_pickle(b"PK\x03\x04" + bytes(5))
