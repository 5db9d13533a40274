"""Pickles become safetensors without running any code of theirs; what is more than tensors is refused."""

import collections
import os
import pickle
import resource
import signal

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.models.encoder_cases import generator, tensors, umt5_pair
from tests.pretrained.test_check import told
from tests.pretrained.test_original import original_umt5
from tm_jax.errors import InputError
from tm_jax.pretrained.__main__ import main
from tm_jax.pretrained.convert import convert


def stored_in(path):
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        return {name: file.get_tensor(name) for name in file.keys()}


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("newer", [True, False], ids=["zip", "older"])
def test_every_type_and_nesting(newer, tmp_path):
    torch.manual_seed(0)
    table = torch.randn(6, 4)
    content = {
        "model": collections.OrderedDict(
            {
                "whole": table,
                "transposed": table.T,
                "a_part": table[1:3, ::2],
                "shared": table,
                "scalar": torch.tensor(2.5),
                "none": torch.zeros(0, 3),
                "parameter": torch.nn.Parameter(torch.randn(3)),
            }
        ),
        "half": table.half(),
        "brain": table.bfloat16(),
        "numbers": torch.arange(5),
        "flags": torch.tensor([True, False]),
        "epoch": 7,
        "names": ["a", "b"],
        3: torch.ones(2),
    }
    if newer:
        # The older form cannot hold it.
        content["eight"] = table.to(torch.float8_e4m3fn)
    source = saved(tmp_path / "model.ckpt", content, _use_new_zipfile_serialization=newer)
    line = convert(source, tmp_path / "out" / "model.safetensors")
    assert f"{12 + newer} tensors" in line and "left out, being no tensors: epoch, names" in line
    found = stored_in(tmp_path / "out" / "model.safetensors")
    expected = {f"model.{key}": value for key, value in content["model"].items()}
    expected |= {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert torch.equal(found[name].float(), value.detach().float()), name
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_a_part_alone(tmp_path):
    source = saved(
        tmp_path / "m.pt", {"generator": {"w": torch.zeros(1)}, "ema": {"net": {"w": torch.ones(1)}}}
    )
    convert(source, tmp_path / "m.safetensors", part="ema.net")
    assert stored_in(tmp_path / "m.safetensors") == {"w": torch.ones(1)}
    with pytest.raises(InputError, match=r"no ema\.x \(at x it has net\)"):
        convert(source, tmp_path / "n.safetensors", part="ema.x")


def test_wan_s_own_pickle_becomes_a_model_that_is_read(tmp_path, seed, capsys):
    reference, _, _ = umt5_pair(generator(seed, 0))
    stored = {key: torch.tensor(value) for key, value in original_umt5(tensors(reference)).items()}
    source = saved(tmp_path / "models_t5_umt5-xxl-enc-bf16.pth", stored)
    assert main(["convert", str(source), "--to", str(tmp_path / "t5.safetensors")]) == 0
    assert "tensors" in capsys.readouterr().out
    status, out, _ = told(capsys, tmp_path / "t5.safetensors")
    assert status == 0 and "text, no published size" in out and "original layout" in out


class Harm:
    """A pickle that would run a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_code_is_refused_and_not_run(tmp_path):
    for name, newer in (("a.pt", True), ("b.pt", False)):
        source = saved(
            tmp_path / name,
            {"w": torch.ones(1), "x": Harm(tmp_path / "harm")},
            _use_new_zipfile_serialization=newer,
        )
        with pytest.raises(InputError, match=r"holds more than tensors \(it asks for (posix|nt)\.system\)"):
            convert(source, tmp_path / "out.safetensors")
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    with pytest.raises(InputError):
        convert(tmp_path / "c.pkl", tmp_path / "out.safetensors")
    with pytest.raises(InputError, match="holds more than tensors"):
        convert(saved(tmp_path / "d.pt", torch.nn.Linear(2, 2)), tmp_path / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt", "c.pkl", "d.pt"]


def test_what_no_state_dict_holds(tmp_path):
    endless = {"w": torch.ones(1)}
    endless["again"] = endless
    doubled = {"w": torch.ones(1)}
    for _ in range(40):
        doubled = {"a": doubled, "b": doubled}
    cases = {
        "never end": endless,
        "never end,": doubled,
        "two tensors of the name a.b": {"a.b": torch.ones(1), "a": {"b": torch.ones(1)}},
        "more numbers than are stored": {"w": torch.ones(1).expand(10**12)},
        "complex64": {"w": torch.ones(2, dtype=torch.complex64)},
        "sparse": {"w": torch.eye(3).to_sparse()},
        "no tensors": {"epoch": 3},
    }
    for number, (sentence, content) in enumerate(cases.items()):
        with pytest.raises(InputError, match=sentence):
            convert(saved(tmp_path / f"{number}.pt", content), tmp_path / "out.safetensors")


def test_wrong_files_and_names(tmp_path, rng):
    good = saved(tmp_path / "good.pth", {"w": torch.ones(4000)})
    target = tmp_path / "out.safetensors"
    cases = [
        (tmp_path / "none.pth", target, "is no file"),
        (good, tmp_path / "out.bin", "end its name in .safetensors"),
        (good, good / "below" / "out.safetensors", "could not be written"),
    ]
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    cases.append((tmp_path / "lfs.pth", target, "Git LFS"))
    content = good.read_bytes()
    for keep in (20, len(content) // 2, len(content) - 1):
        (tmp_path / f"{keep}.pth").write_bytes(content[:keep])
        cases.append((tmp_path / f"{keep}.pth", target, "damaged or cut off|more than tensors"))
    for source, to, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            convert(source, to)
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(256)
        (tmp_path / "damaged.pth").write_bytes(damaged)
        try:
            convert(tmp_path / "damaged.pth", target)
            target.unlink()
        except InputError as told:
            assert "\n" not in str(told)
    convert(good, target)
    with pytest.raises(InputError, match="exists already"):
        convert(good, target)
    np.testing.assert_array_equal(stored_in(target)["w"], np.ones(4000, np.float32))


def test_a_full_disk_leaves_nothing(tmp_path):
    source, folder = saved(tmp_path / "big.pt", {"w": torch.ones(100_000)}), tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(InputError, match="could not be written"):
            convert(source, folder / "big.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(folder.iterdir())
