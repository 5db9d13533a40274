"""The command that times the cache runs on any student and tells a ratio."""

import re

from tests.streaming.tiny import DIT_CONFIG, ROLLOUT, models
from tm_jax.bench.__main__ import main
from tm_jax.bench.cache import Arguments, run
from tm_jax.config import to_json
from tm_jax.pretrained.weights import save_model


def test_it_times_both_on_the_same_chunk(tmp_path):
    path = tmp_path / "student.safetensors"
    save_model(path, models()[1], DIT_CONFIG, meta={"rollout": to_json(ROLLOUT)})
    told = run(Arguments(student=path, size=16, rounds=2, chunks=3))
    assert f"{ROLLOUT.steps} steps" in told and "masked window of 3 chunks" in told
    assert float(re.search(r"faster by +([\d.]+)", told).group(1)) > 0


def test_a_bad_number_is_one_sentence(capsys):
    assert main(["cache", "--rounds", "0"]) == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_missing_weights_are_one_sentence(capsys, tmp_path):
    assert main(["cache", "--student", str(tmp_path / "nothing.safetensors")]) == 2
    assert "nothing.safetensors" in capsys.readouterr().err
