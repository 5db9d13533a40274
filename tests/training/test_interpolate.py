"""Between two students lies what the shares say, in one file or several, and it streams as told."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from tests.training.tiny import CONFIG, random_dit
from tm_jax.config import to_json
from tm_jax.diffusion.schedule import RolloutConfig
from tm_jax.errors import InputError
from tm_jax.models.dit import DiT
from tm_jax.models.dit_config import DiTConfig
from tm_jax.pretrained.weights import load_model, read_header, save_model
from tm_jax.streaming.jax_engine import read_rollout
from tm_jax.training.interpolate import Arguments, interpolate, main

ROLLOUT = RolloutConfig(correlation=0.5)


@pytest.fixture
def files(tmp_path, getkey):
    models = [random_dit(getkey()), random_dit(getkey())]
    for name, model in zip(("start", "end"), models, strict=True):
        save_model(tmp_path / f"{name}.safetensors", model, CONFIG, {"rollout": to_json(ROLLOUT)})
    return models, Arguments(*(tmp_path / f"{name}.safetensors" for name in ("start", "end", "out")))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_parameter_lies_a_share_of_the_way(files, share):
    (start, end), arguments = files
    interpolate(dataclasses.replace(arguments, share=share))
    made = load_model(arguments.out, DiT, DiTConfig)
    wanted = jax.tree.map(lambda one, other: one + share * (other - one), start, end)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), made, wanted)
    assert read_rollout(arguments.out) == ROLLOUT


def test_it_streams_as_told_and_says_where_it_comes_from(files):
    _, arguments = files
    interpolate(dataclasses.replace(arguments, shift=1.0, correlation=0.0))
    rollout = read_rollout(arguments.out)
    assert rollout.sigmas == (1.0, 0.5) and rollout.correlation == 0 and rollout.chunk == ROLLOUT.chunk
    told = read_header(arguments.out).meta["interpolated"]
    assert told["share"] == 0.3 and told["end"]["rollout"] == to_json(ROLLOUT)


def test_what_does_not_belong_together_is_told(files, tmp_path, getkey, capsys, monkeypatch):
    _, arguments = files
    other = tmp_path / "other.safetensors"
    save_model(other, random_dit(getkey()), CONFIG, {"rollout": to_json(RolloutConfig(steps=4))})
    with pytest.raises(InputError, match="other steps or chunks"):
        interpolate(dataclasses.replace(arguments, end=other))
    wide = dataclasses.replace(CONFIG, ffn=128)
    save_model(other, DiT(wide, rngs=nnx.Rngs(0)), wide, {"rollout": to_json(ROLLOUT)})
    with pytest.raises(InputError, match=r"another config .*ffn"):
        interpolate(dataclasses.replace(arguments, end=other))
    save_model(other, DiT(wide, rngs=nnx.Rngs(0)), wide)
    with pytest.raises(InputError, match="does not say with which steps"):
        interpolate(dataclasses.replace(arguments, end=other))
    assert not arguments.out.exists()
    given = ["--start", str(arguments.start), "--end", str(arguments.end), "--out", str(arguments.out)]
    for flags, sentence in [
        ("--share 2", "share 2: it lies"),
        ("--shift 0", "shift 0"),
        ("--sare 1", "--share"),
    ]:
        monkeypatch.setattr("sys.argv", ["interpolate", *given, *flags.split()])
        assert main() == 2
        assert sentence in capsys.readouterr().err
