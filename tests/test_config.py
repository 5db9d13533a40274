"""Presets, overrides from the command line, and configs as JSON."""

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Literal

import pytest

from tm_jax import config
from tm_jax.errors import InputError
from tm_jax.sharding import ShardingRules
from tm_jax.training.loop import LoopConfig


@dataclasses.dataclass(frozen=True)
class Full:
    chunk: int = 3


@dataclasses.dataclass(frozen=True)
class Sparse:
    window: float = 1.0


@dataclasses.dataclass(frozen=True)
class Model:
    """The model."""

    width: int = 8
    """Width of the layers."""
    scale: float = 1.0
    means: tuple[float, ...] = (0.5, 1.0)
    size: tuple[int, int] = (2, 3)
    kind: Literal["a", "b"] = "a"
    path: Path | None = None
    pattern: Full | Sparse = Full()

    def __post_init__(self):
        if self.width % 2:
            raise ValueError(f"width {self.width} must be even")


@dataclasses.dataclass(frozen=True)
class Experiment:
    loop: LoopConfig = LoopConfig(name="toy")
    model: Model = Model()

    def build(self):
        return self.model


@pytest.fixture
def presets(tmp_path, monkeypatch):
    """A package of presets of its own: toy and toy_large."""
    package = types.ModuleType("configs")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "configs", package)
    for name in ("toy", "toy_large"):
        (tmp_path / f"{name}.py").write_text(f'"""The preset {name}.\n\nMore about it.\n"""\n')
        module = types.ModuleType(f"configs.{name}", f"The preset {name}.")
        module.PRESET = Experiment()
        monkeypatch.setitem(sys.modules, f"configs.{name}", module)
    return package


def test_a_preset_and_its_overrides(presets):
    loaded = config.load(
        presets, ["toy", "--model.width", "16", "--loop.no-resume", "--model.size", "4", "5"]
    )
    assert loaded == Experiment(LoopConfig(name="toy", resume=False), Model(width=16, size=(4, 5)))


def test_help_lists_the_presets_with_their_first_lines(capsys, presets):
    with pytest.raises(SystemExit) as end:
        config.load(presets, ["--help"])
    assert end.value.code == 0
    assert "toy_large  The preset toy_large." in capsys.readouterr().out


def test_no_preset_at_all_shows_the_usage(capsys, presets):
    with pytest.raises(SystemExit) as end:
        config.load(presets, [])
    assert end.value.code == 2
    assert "usage: python train.py PRESET" in capsys.readouterr().out


def test_help_of_a_preset_shows_the_fields_and_their_docstrings(capsys, presets):
    with pytest.raises(SystemExit) as end:
        config.load(presets, ["toy", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "--model.width INT" in text and "Width of the layers. (default: 8)" in text


def test_an_unknown_preset_suggests_the_nearest_and_lists_all(presets):
    with pytest.raises(InputError, match=r"'toi': did you mean toy\? The presets are toy, toy_large\."):
        config.load(presets, ["toi"])


def test_a_mistyped_flag_suggests_the_nearest_and_prints_nothing(capsys, presets):
    with pytest.raises(InputError, match=r"no flag --model.widht \(did you mean --model.width\?\)"):
        config.load(presets, ["toy", "--model.widht", "16"])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("value", "sentence"), [("many", "--model.width: it takes"), ("7", "must be even")])
def test_a_value_that_the_config_refuses_is_named(value, sentence, capsys, presets):
    with pytest.raises(InputError, match=sentence) as error:
        config.load(presets, ["toy", "--model.width", value])
    assert value in str(error.value) and capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "value",
    [
        Experiment(),
        Experiment(model=Model(width=2, means=(), path=Path("a/b"), pattern=Sparse(2.0), kind="b")),
        ShardingRules(embed=("data", "fsdp"), layer=None),
    ],
)
def test_json_round_trip(value):
    text = json.dumps(config.to_json(value))
    assert config.from_json(type(value), json.loads(text)) == value


def test_missing_fields_keep_their_defaults_and_unknown_ones_are_named():
    assert config.from_json(Model, {"width": 4}) == Model(width=4)
    with pytest.raises(InputError, match="Model has no field depth"):
        config.from_json(Model, {"depth": 4})


def test_a_config_cannot_hold_arrays():
    with pytest.raises(TypeError, match="object"):
        config.to_json(object())


def test_differences_name_the_fields():
    other = Experiment(LoopConfig(name="toy", steps=7), Model(means=(0.5,), pattern=Sparse()))
    assert config.differences(Experiment(), Experiment()) == []
    assert config.differences(Experiment(), other) == [
        "loop.steps: 1000 against 7",
        "model.means: [0.5, 1.0] against [0.5]",
        "model.pattern.chunk: only in the first",
        "model.pattern.window: only in the second",
    ]
