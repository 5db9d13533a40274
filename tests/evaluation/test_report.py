import json

import numpy as np
import pytest

from tm_jax.errors import InputError
from tm_jax.evaluation import comparison, pictures
from tm_jax.evaluation.drift import Minute
from tm_jax.evaluation.report import Figure, output_directory, table, within, write_json


def test_targets_are_judged():
    assert Figure("a", 0.95, least=0.9).passed
    assert Figure("a", 0.85, least=0.9).passed is False
    assert Figure("a", float("nan"), least=0.9).passed is False
    assert Figure("a", 0.2).passed is None
    assert within("a", 1.1, 0.15).passed and not within("a", 1.2, 0.15).passed
    assert within("a", 0.8, 0.15).target == "0.85 … 1.15"


def test_table_and_json_say_the_same(tmp_path):
    figures = [
        Figure("lip-sync", 0.91, least=0.9, low=0.90, high=0.92),
        Figure("flicker", float("nan"), most=1.0),
    ]
    text = table(figures)
    assert "0.91" in text and "pass" in text and "FAIL" in text and "0.900 … 0.920" in text
    write_json(tmp_path / "r.json", figures, {"clips": 60}, {"curve": (1.0, float("inf"))})
    loaded = json.loads((tmp_path / "r.json").read_text())
    assert loaded["figures"][0]["passed"] is True
    assert loaded["figures"][1]["value"] is None
    assert loaded["details"]["curve"] == [1.0, None]


def test_an_unwritable_directory_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        output_directory(tmp_path / "file" / "report")


def test_identity_may_not_drift_beyond_the_ceiling():
    drift = comparison.Drift(1.0, 1.2, 1.0, 1.0, 1.0, 1.0, 0.0)
    assert comparison.drift_figures("anime", drift, ceiling=1.0)[0].passed is False
    assert comparison.drift_figures("anime", drift, ceiling=1.15)[0].passed is True


def test_pictures_are_drawn(tmp_path, rng):
    truth = rng.random((2, 40))
    pictures.openings(tmp_path / "a.png", truth, {"student": truth}, np.ones((2, 40), int))
    pictures.bars(tmp_path / "b.png", {"student": {"flicker": 1.2}}, {"flicker": (0.85, 1.15)})
    pictures.strips(
        tmp_path / "c.png", {"real": list(np.zeros((2, 9, 8, 8, 3), np.uint8))}, np.array([0, 4, 8])
    )
    minute = Minute(1500, 0.5, (1.0, 2.0, 3.0), 0.1, 0.2, 0.3, 0.9)
    pictures.minutes(tmp_path / "d.png", {"anime": [minute, minute]})
    assert all((tmp_path / f"{name}.png").stat().st_size > 0 for name in "abcd")
