"""The run's log: means between its lines, pictures, and what counts as finite."""

import json

import numpy as np
import pytest
from PIL import Image

from tm_jax.training.metrics import RunLog, not_finite


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_holds_means_over_the_steps_that_gave_the_figure(tmp_path):
    log = RunLog(tmp_path, name="run", start=0, steps=4, every=2)
    for step, metrics in enumerate(({"loss": 1.0}, {"loss": 3.0, "critic": 5.0}, {"loss": 7.0}), start=1):
        log.step(step, metrics)
    log.close(3)
    first, last = lines(tmp_path)
    assert (first["step"], first["loss"], first["critic"]) == (2, 2.0, 5.0)
    assert (last["step"], last["loss"]) == (3, 7.0) and "critic" not in last
    assert first["steps_per_second"] > 0


def test_a_resumed_run_goes_on_in_the_same_log(tmp_path):
    for start in (0, 1):
        log = RunLog(tmp_path, name="run", start=start, steps=2, every=1)
        log.step(start + 1, {"loss": float(start)})
        log.close(start + 1)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_pictures_and_scalars_reach_tensorboard(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "grey.png")
    log = RunLog(tmp_path / "run", name="run", start=0, steps=1, every=1)
    log.pictures(1, tmp_path)
    log.step(1, {"loss": 1.0})
    log.close(1)
    written = next((tmp_path / "run").glob("events.*")).read_bytes()
    assert b"grey" in written and b"loss" in written


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_names_the_metrics(bad):
    assert not_finite({"loss": bad, "other": 1.0}) == ["loss"]
